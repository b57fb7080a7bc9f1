"""The numbers of a gateway's streams: the database's clock, the ages of events, the gauges."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import Final

from headrace_core.domain.job import JobEvent
from headrace_core.store.event_log import ClockReading

# The drift of two clocks, in seconds per second: the limit of NTP for an oscillator.
_DRIFT: Final = 0.0005


class DatabaseClock:
    """The database's clock, as its distance from the monotonic clock of this process.

    The database reads its clock between a request and its response, so each reading limits the
    distance. Together the readings give narrow limits, even in a busy process. The wall clock of
    this machine is not used.
    """

    def __init__(self) -> None:
        self._low = -math.inf
        self._high = math.inf
        self._read = 0.0
        self._distance = 0.0

    def set(self, reading: ClockReading) -> None:
        """Narrow the distance by a reading."""
        shown = reading.time
        low, high = shown - reading.answered, shown - reading.asked
        slack = (reading.answered - self._read) * _DRIFT
        self._low = max(self._low - slack, low)
        self._high = min(self._high + slack, high)
        if self._low > self._high:
            # The database's clock was set.
            self._low, self._high = low, high
        self._read = reading.answered
        self._distance = (self._low + self._high) / 2

    def now(self) -> float:
        """Return its time in seconds since 1970. It needs at least one reading."""
        return time.monotonic() + self._distance


# Upper limits of the buckets, in seconds; one more bucket is above the last one.
BOUNDS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)


class Ages:
    """A histogram of the ages of events. One thread writes it, and any may read it.

    Attributes:
        total: the sum of all ages, in seconds.
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, events: Sequence[JobEvent], *, now: float) -> None:
        """Count events.

        Args:
            events: with their times.
            now: the time of the same clock, in seconds since 1970.
        """
        counts, total = self._counts, 0.0
        moment = datetime.fromtimestamp(now, UTC)
        for event in events:
            age = (moment - event.time).total_seconds()
            counts[bisect_left(BOUNDS, age)] += 1
            total += age
        # The clock is known to a fraction of a millisecond, so the age of a fresh event may be
        # negative.
        self.total += max(0.0, total)

    def cumulated(self) -> list[int]:
        """Return the number of events up to each limit; the last number counts all."""
        return list(accumulate(self._counts))


@dataclass(slots=True)
class Gauges:
    """The numbers of the streams; `headrace_gateway.metrics` serves them.

    Times are those of `time.monotonic()`.

    Attributes:
        job_streams: open streams over one job.
        filter_streams: open streams over many jobs, those of subscriptions among them.
        subscription_streams: those of them that receive a subscription.
        standby_streams: standbys of subscriptions.
        resumes: streams that began after a cursor or a known event.
        catch_ups: how often a stream overflowed its mailbox and continued from PostgreSQL.
        gaps: how often an event of a job arrived without the one before it. It must stay 0.
        slow_consumers: streams that ended because their client stopped reading.
        resets: calls that were reset because their client did not even read the end.
        cursors_expired: streams that were refused because events after their cursor were pruned.
        looks: runs of the tail.
        events: events that the tail has read.
        failures: failed runs of the tail.
        last_look: when the tail last ran.
        held_since: since when an open transaction has held up the order of all events; None
            without one.
        waiting_since: since when an event has been unsettled because of it; None without one.
        sent: the ages of live events when they were sent.
        clock: the database's.
    """

    job_streams: int = 0
    filter_streams: int = 0
    subscription_streams: int = 0
    standby_streams: int = 0
    resumes: int = 0
    catch_ups: int = 0
    gaps: int = 0
    slow_consumers: int = 0
    resets: int = 0
    cursors_expired: int = 0
    looks: int = 0
    events: int = 0
    failures: int = 0
    last_look: float | None = None
    held_since: float | None = None
    waiting_since: float | None = None
    sent: Ages = field(default_factory=Ages, compare=False)
    clock: DatabaseClock = field(default_factory=DatabaseClock, compare=False)

    @property
    def settled_lag(self) -> float:
        """Seconds that an event has waited for an open transaction; 0 without one."""
        return _since(self.waiting_since)

    @property
    def held_up(self) -> float:
        """Seconds that a transaction has held up the order of all events."""
        return _since(self.held_since)

    @property
    def unseen(self) -> float:
        """Seconds since the tail last ran; 0 before its first run."""
        return _since(self.last_look)

    def since(self, events: Sequence[JobEvent]) -> float:
        """Return since when a message has been due, by the database's clock.

        Args:
            events: live events, in their order; none for a message that is due now.

        Returns:
            Seconds since 1970.
        """
        return events[0].time.timestamp() if events else self.clock.now()

    def count_sent(self, events: Sequence[JobEvent]) -> None:
        """Count live events that were sent now."""
        self.sent.add(events, now=self.clock.now())


def _since(moment: float | None) -> float:
    return 0.0 if moment is None else max(0.0, time.monotonic() - moment)

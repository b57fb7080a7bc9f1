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

# How far two clocks may run apart, in seconds per second: what NTP allows an oscillator.
_DRIFT: Final = 0.0005


class DatabaseClock:
    """What the database's clock shows, by its distance from this process's monotonic clock.

    The database reads its clock somewhere between a question and its answer, so each reading gives
    bounds of the distance, and together they give narrow ones, however busy this process is. The
    clock of this machine plays no part, and one that is set anew does no harm.
    """

    def __init__(self) -> None:
        self._low = -math.inf
        self._high = math.inf
        self._read = 0.0
        self._distance = 0.0

    def set(self, reading: ClockReading) -> None:
        """Takes what a reading says of the distance."""
        shown = reading.time
        low, high = shown - reading.answered, shown - reading.asked
        slack = (reading.answered - self._read) * _DRIFT
        self._low = max(self._low - slack, low)
        self._high = min(self._high + slack, high)
        if self._low > self._high:
            # Somebody has set the database's clock.
            self._low, self._high = low, high
        self._read = reading.answered
        self._distance = (self._low + self._high) / 2

    def now(self) -> float:
        """What it shows now, in seconds since 1970. It must have been set before."""
        return time.monotonic() + self._distance


# Upper bounds of the buckets, in seconds; above the last one is one more.
BOUNDS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)


class Ages:
    """A histogram of the ages of events. It is written in one thread, and read in any.

    Attributes:
        total: all ages together, in seconds.
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, events: Sequence[JobEvent], *, now: float) -> None:
        """Counts events.

        Args:
            events: with their times.
            now: by the same clock, in seconds since 1970.
        """
        counts, total = self._counts, 0.0
        moment = datetime.fromtimestamp(now, UTC)
        for event in events:
            age = (moment - event.time).total_seconds()
            counts[bisect_left(BOUNDS, age)] += 1
            total += age
        # The clock is known to some fraction of a millisecond, so a fresh event may come out as not
        # yet written.
        self.total += max(0.0, total)

    def cumulated(self) -> list[int]:
        """How many were at most as old as each bound says; the last one has all."""
        return list(accumulate(self._counts))


@dataclass(slots=True)
class Gauges:
    """Plain numbers; `headrace_gateway.metrics` serves them.

    Moments are those of `time.monotonic()`.

    Attributes:
        job_streams: open streams over one job.
        filter_streams: open streams over many jobs, those of subscriptions among them.
        subscription_streams: those of them that receive a subscription.
        standby_streams: consumers of a subscription that stand by.
        resumes: streams that began behind a cursor or an event that their reader had seen.
        catch_ups: how often a stream fell behind its queue and went on from PostgreSQL.
        gaps: how often an event of a job came without the one before it. It must stay 0.
        slow_consumers: streams that were ended since nobody read them.
        resets: calls that were reset since not even their end was read.
        cursors_expired: streams that were refused since their cursor is older than what is kept.
        looks: how often the tail has looked.
        events: how many events it has read.
        failures: how often it could not.
        last_look: when it has looked last.
        held_since: since when the order of all events has been held up by a transaction that is
            open; None when it is not.
        waiting_since: since when an event that was read has been waiting for it; None when none
            waits.
        sent: how old live events were when they were sent.
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
        """For how many seconds an event has been waiting for an open transaction; 0: none waits."""
        return _since(self.waiting_since)

    @property
    def held_up(self) -> float:
        """For how many seconds a transaction has been holding up the order of all events."""
        return _since(self.held_since)

    @property
    def unseen(self) -> float:
        """How many seconds ago the tail has looked; 0 before the first look."""
        return _since(self.last_look)

    def since(self, events: Sequence[JobEvent]) -> float:
        """Since when something that is to be sent now has been due, by the database's clock.

        Args:
            events: live events, in their order; none for anything else, which is due now.

        Returns:
            Seconds since 1970.
        """
        return events[0].time.timestamp() if events else self.clock.now()

    def count_sent(self, events: Sequence[JobEvent]) -> None:
        """Counts live events that have been sent just now."""
        self.sent.add(events, now=self.clock.now())


def _since(moment: float | None) -> float:
    return 0.0 if moment is None else max(0.0, time.monotonic() - moment)

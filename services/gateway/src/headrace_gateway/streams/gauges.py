"""Stream gauges, event ages, and the database's clock."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from headrace_core.domain.job import JobEvent
from headrace_core.store.event_log import ClockReading
from headrace_gateway.histogram import Histogram

# The maximum drift between two clocks, in seconds per second: NTP's limit for an oscillator.
_MAX_DRIFT: Final = 0.0005


class DatabaseClock:
    """The database's clock, as an offset from the monotonic clock of this process.

    The database reads its clock between a request and its response, so each reading bounds the
    offset. Several readings together give narrow bounds, even in a busy process. This machine's
    wall clock is not used.
    """

    def __init__(self) -> None:
        self._low = -math.inf
        self._high = math.inf
        self._read = 0.0
        self._offset = 0.0

    def add_reading(self, reading: ClockReading) -> None:
        """Narrow the bounds of the offset with a reading."""
        low, high = reading.time - reading.received, reading.time - reading.sent
        slack = (reading.received - self._read) * _MAX_DRIFT
        self._low = max(self._low - slack, low)
        self._high = min(self._high + slack, high)
        if self._low > self._high:
            # The bounds contradict each other, so the database's clock was adjusted.
            self._low, self._high = low, high
        self._read = reading.received
        self._offset = (self._low + self._high) / 2

    def now(self) -> float:
        """Return the database's time, in seconds since 1970. Requires at least one reading."""
        return time.monotonic() + self._offset


# Upper limits of the buckets, in seconds.
AGE_BOUNDS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)


class Ages(Histogram):
    """A histogram of the ages of events, in seconds."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(AGE_BOUNDS)

    def add(self, events: Sequence[JobEvent], *, now: float) -> None:
        """Count events.

        Args:
            events: the events to count.
            now: the time of the clock that stamped the events, in seconds since 1970.
        """
        moment = datetime.fromtimestamp(now, UTC)
        # The clock is only known to a fraction of a millisecond, so the age of a new event can be
        # negative.
        self.count((moment - event.time).total_seconds() for event in events)


@dataclass(slots=True)
class Gauges:
    """The gauges and counters of the streams; `headrace_gateway.metrics` exports them.

    Times are values of `time.monotonic()`, in seconds.

    Attributes:
        job_streams: open streams over one job.
        filter_streams: open streams over many jobs, including subscription streams.
        subscription_streams: open streams that receive the events of a subscription.
        standby_streams: open streams that wait on standby for a subscription.
        overview_streams: open streams of overviews.
        overview_computations: computations of overviews, which streams share.
        resumes: streams that resumed after a cursor or a known event.
        catch_ups: mailbox overflows, after which the stream continued from PostgreSQL.
        gaps: events of a job that arrived without the preceding event; must stay 0.
        slow_consumers: streams that ended because their client stopped reading.
        resets: calls that were reset because their client did not even read the status.
        cursors_expired: streams that were rejected because events after their cursor were pruned.
        runs: runs of the tail.
        events: events that the tail has read.
        failures: failed runs of the tail.
        last_run: time of the last run of the tail; None before the first one.
        delayed_since: time since which the oldest open transaction has delayed settling; None if no
            transaction does.
        unsettled_since: time since which the oldest unsettled event has waited; None if all events
            have settled.
        sent: the ages of live events when they were sent.
        clock: the database's clock.
    """

    job_streams: int = 0
    filter_streams: int = 0
    subscription_streams: int = 0
    standby_streams: int = 0
    overview_streams: int = 0
    overview_computations: int = 0
    resumes: int = 0
    catch_ups: int = 0
    gaps: int = 0
    slow_consumers: int = 0
    resets: int = 0
    cursors_expired: int = 0
    runs: int = 0
    events: int = 0
    failures: int = 0
    last_run: float | None = None
    delayed_since: float | None = None
    unsettled_since: float | None = None
    sent: Ages = field(default_factory=Ages, compare=False)
    clock: DatabaseClock = field(default_factory=DatabaseClock, compare=False)

    @property
    def settled_lag(self) -> float:
        """Seconds that the oldest unsettled event has waited for an open transaction, or 0."""
        return _seconds_since(self.unsettled_since)

    @property
    def delay(self) -> float:
        """Seconds that the oldest open transaction has delayed settling, or 0."""
        return _seconds_since(self.delayed_since)

    @property
    def since_last_run(self) -> float:
        """Seconds since the tail last ran; 0 before its first run."""
        return _seconds_since(self.last_run)

    def send_due_time(self, events: Sequence[JobEvent]) -> float:
        """Return the time at which a message was due to be sent, by the database's clock.

        Args:
            events: live events, in order; empty for a message that is due now.

        Returns:
            Seconds since 1970.
        """
        return events[0].time.timestamp() if events else self.clock.now()

    def count_sent(self, events: Sequence[JobEvent]) -> None:
        """Count live events that were just sent."""
        self.sent.add(events, now=self.clock.now())


def _seconds_since(moment: float | None) -> float:
    return 0.0 if moment is None else max(0.0, time.monotonic() - moment)

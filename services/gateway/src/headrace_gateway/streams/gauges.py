"""What the streams of a gateway can tell of themselves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace_core.domain.job import JobEvent
from headrace_gateway.streams.ages import Ages
from headrace_gateway.streams.clock import DatabaseClock


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

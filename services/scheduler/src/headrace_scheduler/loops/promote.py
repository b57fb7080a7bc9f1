"""Queue jobs that have become due."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from headrace_core.runtime.loop import Loop
from headrace_core.store.jobs.promote import next_due, promote_due
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from headrace_scheduler.timing import DEFAULT, Timing

_PAGE_SIZE: Final = 1000
# Minimum wait, in seconds. A due job that was not promoted is locked by another transaction.
_MIN_WAIT: Final = 0.01


class Promote(Loop):
    """Move SCHEDULED and RETRYING jobs to QUEUED when they are due by the database's clock.

    Args:
        database: the store.
        bus: announces promoted jobs.
        term: the term of the scheduler.
        timing: the longest wait of the loop.
    """

    name = "promote"
    topics = (Topic.JOBS,)

    def __init__(
        self, *, database: Database, bus: WakeBus, term: int, timing: Timing = DEFAULT
    ) -> None:
        self._database = database
        self._bus = bus
        self._term = term
        self._timing = timing

    async def run_once(self) -> float:
        """Queue all due jobs, page by page; return the seconds until the next job is due."""
        while True:
            async with self._database.statement() as connection:
                wait = await next_due(connection)
                due = wait is not None and wait <= timedelta()
                promoted = (
                    await promote_due(connection, term=self._term, limit=_PAGE_SIZE) if due else 0
                )
            if not promoted:
                break
            self._bus.publish(Topic.JOBS, Topic.EVENTS)
        longest = self._timing.promote
        return longest if wait is None else min(longest, max(_MIN_WAIT, wait.total_seconds()))

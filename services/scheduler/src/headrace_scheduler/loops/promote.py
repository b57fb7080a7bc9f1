"""Queues what has become due."""

from __future__ import annotations

from datetime import timedelta

from headrace_core.store.jobs.promote import next_due, promote_due
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, Waker
from headrace_scheduler.loop import BREATH

_PAGE = 1000
# The longest wait, in seconds: a wake-up that was lost delays a job by no more.
_MAX_WAIT = 1.0
# The shortest: a job that is late and still there is held by somebody's lock.
_MIN_WAIT = 0.01


class Promote:
    """SCHEDULED and RETRYING jobs become QUEUED when the database's clock says so.

    Args:
        database: where the jobs are.
        waker: rung when something was queued.
        term: the scheduler's.
    """

    name = "promote"
    breath = BREATH

    def __init__(self, *, database: Database, waker: Waker, term: int) -> None:
        self._database = database
        self._waker = waker
        self._term = term

    async def run_once(self) -> float:
        """Queues all that is due, page by page; returns the seconds until the next job is."""
        while True:
            async with self._database.statement() as connection:
                wait = await next_due(connection)
                due = wait is not None and wait <= timedelta()
                promoted = await promote_due(connection, term=self._term, limit=_PAGE) if due else 0
            if not promoted:
                break
            self._waker.ring(Topic.JOBS, Topic.EVENTS)
        if wait is None:
            return _MAX_WAIT
        return min(_MAX_WAIT, max(_MIN_WAIT, wait.total_seconds()))

"""Queues what has become due."""

from __future__ import annotations

from headrace_core.store.database import Database
from headrace_core.store.promote import next_due, promote_due
from headrace_core.wake import Topic, Waker

_PAGE = 1000
# The longest wait, in seconds: a wake-up that was lost delays a job by no more.
_MAX_WAIT = 1.0
# The shortest: a job that is late and still there is held by somebody's lock.
_MIN_WAIT = 0.01


class Promote:
    """SCHEDULED and RETRYING jobs become QUEUED when the database's clock says so."""

    name = "promote"

    def __init__(self, *, database: Database, waker: Waker) -> None:
        self._database = database
        self._waker = waker

    async def run_once(self) -> float:
        """Queues all that is due, page by page; returns the seconds until the next job is."""
        while True:
            async with self._database.statement() as connection:
                promoted = await promote_due(connection, limit=_PAGE)
                wait = await next_due(connection)
            if promoted:
                self._waker.ring(Topic.JOBS, Topic.EVENTS)
            if promoted < _PAGE:
                break
        if wait is None:
            return _MAX_WAIT
        return min(_MAX_WAIT, max(_MIN_WAIT, wait.total_seconds()))

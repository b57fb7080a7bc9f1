"""Takes back the jobs of lost workers, and fails what is past its deadline."""

from __future__ import annotations

from datetime import timedelta

import structlog

from headrace_core.domain.lifecycle import JobState
from headrace_core.store.jobs.recover import expire_overdue, take_back_lost
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import remove_lapsed
from headrace_core.wake import Topic, Waker
from headrace_scheduler.loop import BREATH
from headrace_scheduler.metrics import Gauges

_log = structlog.get_logger()

_PAGE = 500
# Seconds between two sweeps. With a lease of 15 s it keeps the promise of 25 s.
_INTERVAL = 2.0
# How much longer a job past its deadline is left to its worker, which ends it by itself.
_RUNNING_GRACE = timedelta(seconds=5)
# A lapsed worker may still be looked at for this long.
_KEEP_LAPSED = timedelta(hours=1)


class Recover:
    """Looks for jobs whose worker is lost, page by page, for ever.

    Args:
        database: where the jobs are.
        waker: rung when something was found.
        term: the scheduler's.
        gauges: told how many jobs it has taken back.
        max_losses: how many workers a job may lose before the next one fails it.
    """

    name = "recover"
    breath = BREATH

    def __init__(
        self, *, database: Database, waker: Waker, term: int, gauges: Gauges, max_losses: int
    ) -> None:
        self._database = database
        self._waker = waker
        self._term = term
        self._gauges = gauges
        self._max_losses = max_losses

    async def run_once(self) -> float:
        """Sweeps everything once; returns the seconds until the next sweep."""
        while True:
            # Each is a transaction by itself: none stays open while this process stands still.
            async with self._database.statement() as connection:
                lost = await take_back_lost(
                    connection, term=self._term, limit=_PAGE, max_losses=self._max_losses
                )
                expired = await expire_overdue(
                    connection, term=self._term, limit=_PAGE, running_grace=_RUNNING_GRACE
                )
            self._gauges.taken_back += len(lost)
            for job_id, state in lost:
                log = _log.error if state == JobState.FAILED else _log.warning
                log("job_worker_lost", job_id=str(job_id), state=state)
            for job_id in expired:
                _log.warning("job_expired", job_id=str(job_id))
            if lost or expired:
                self._waker.ring(Topic.JOBS, Topic.EVENTS)
            if len(lost) < _PAGE and len(expired) < _PAGE:
                break
        async with self._database.statement() as connection:
            await remove_lapsed(connection, term=self._term, older_than=_KEEP_LAPSED)
        return _INTERVAL

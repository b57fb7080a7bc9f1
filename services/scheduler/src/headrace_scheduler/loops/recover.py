"""Recover the attempts of lost workers, and expire jobs that are past their deadline."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import structlog

from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.loop import Loop
from headrace_core.store.jobs.recover import expire_overdue, recover_lost
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import remove_lapsed
from headrace_core.wake import Topic, WakeBus
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.timing import DEFAULT, Timing

_log = structlog.get_logger()

_PAGE_SIZE: Final = 500
# Time after the deadline of a running job in which the worker itself can expire the job.
_RUNNING_GRACE: Final = timedelta(seconds=5)
# Time after which the row of a lapsed worker is removed.
_MAX_LAPSED_AGE: Final = timedelta(hours=1)


class Recover(Loop):
    """Recover and expire jobs, page by page.

    Args:
        database: the store.
        bus: announces recovered and expired jobs.
        term: the term of the scheduler.
        gauges: counts recovered jobs.
        max_losses: the maximum number of workers that a job may lose; the next loss fails the job.
        timing: the interval of the loop.
    """

    name = "recover"

    def __init__(
        self,
        *,
        database: Database,
        bus: WakeBus,
        term: int,
        gauges: Gauges,
        max_losses: int,
        timing: Timing = DEFAULT,
    ) -> None:
        self._database = database
        self._bus = bus
        self._term = term
        self._gauges = gauges
        self._max_losses = max_losses
        self._timing = timing

    async def run_once(self) -> float:
        """Recover and expire all jobs that need it; return the seconds until the next run."""
        while True:
            # Each statement is its own transaction, so none stays open while this process is
            # suspended.
            async with self._database.statement() as connection:
                lost = await recover_lost(
                    connection, term=self._term, limit=_PAGE_SIZE, max_losses=self._max_losses
                )
                expired = await expire_overdue(
                    connection, term=self._term, limit=_PAGE_SIZE, running_grace=_RUNNING_GRACE
                )
            self._gauges.recovered += len(lost)
            for job_id, state in lost:
                log = _log.error if state == JobState.FAILED else _log.warning
                log("job_worker_lost", job_id=str(job_id), state=state)
            for job_id in expired:
                _log.warning("job_expired", job_id=str(job_id))
            if lost or expired:
                self._bus.publish(Topic.JOBS, Topic.EVENTS)
            if len(lost) < _PAGE_SIZE and len(expired) < _PAGE_SIZE:
                break
        async with self._database.statement() as connection:
            await remove_lapsed(connection, term=self._term, older_than=_MAX_LAPSED_AGE)
        return self._timing.recover

"""Submits jobs: those that come at the same time share one transaction."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from headrace_core.domain.errors import HeadraceError, RequestIdConflict, Unavailable
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.settings import Settings
from headrace_core.store.database import Database
from headrace_core.store.group_commit import GroupCommit
from headrace_core.store.submit import NewJob, Submitted, submit_jobs
from headrace_core.wake import Topic, Waker
from headrace_gateway.intake import Accepted

_log = structlog.get_logger()

_MAX_BATCH: Final = 1000
# Bytes of payloads that one transaction may carry, and that may wait in all.
_MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
_MAX_PENDING_BYTES: Final = 256 * 1024 * 1024


class Submitter:
    """Persists single jobs by group commit.

    Args:
        settings: how many submits may wait, and the database's deadline.
        database: where jobs are stored.
        waker: is rung after each commit.
    """

    def __init__(self, *, settings: Settings, database: Database, waker: Waker) -> None:
        self._database = database
        self._waker = waker
        # The commit that runs and the one behind it.
        self._timeout = 2 * settings.database_timeout
        self._commits: GroupCommit[NewJob, Submitted | RequestIdConflict | Exception] = GroupCommit(
            commit=self._commit,
            max_batch=_MAX_BATCH,
            max_pending=settings.max_pending_submits,
            weigh=_weigh,
            max_batch_weight=_MAX_BATCH_BYTES,
            max_pending_weight=_MAX_PENDING_BYTES,
        )

    async def submit(self, job: Accepted, *, tenant: str, request_id: str | None) -> Submitted:
        """Persists a job, or finds the one that has its request_id.

        Raises:
            RequestIdConflict: the request_id was used for another content.
            Unavailable: the database is gone or too much waits for it. The job may be stored
                nevertheless; with a request_id the call can be repeated without harm.
        """
        new = NewJob(
            id=JobId(uuid7()),
            tenant=tenant,
            spec=job.spec,
            request_id=request_id,
            fingerprint=job.fingerprint() if request_id else None,
        )
        try:
            async with asyncio.timeout(self._timeout):
                result = await self._commits.submit(new)
        except TimeoutError:
            raise Unavailable("postgresql") from None
        if isinstance(result, Exception):
            raise result
        _log.info(
            "job_submitted",
            job_id=str(result.job.id),
            type=result.job.type,
            queue=result.job.queue,
            created=result.created,
        )
        return result

    async def close(self) -> None:
        """Takes no more jobs and commits those that wait."""
        await self._commits.close()

    async def _commit(self, jobs: list[NewJob]) -> list[Submitted | RequestIdConflict | Exception]:
        try:
            return list(await self._persist(jobs))
        except HeadraceError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one job's error
            # One job that the database refuses, a bug of ours, must not fail the others.
            if len(jobs) == 1:
                return [error]
            _log.exception("batch_refused", jobs=len(jobs))
            return [(await self._commit([job]))[0] for job in jobs]

    async def _persist(self, jobs: list[NewJob]) -> list[Submitted | RequestIdConflict]:
        async with self._database.statement() as conn:
            results = await submit_jobs(conn, jobs)
        self._waker.ring(Topic.JOBS, Topic.EVENTS)
        return results


def _weigh(job: NewJob) -> int:
    return len(job.spec.payload)

"""Submits jobs: those that come at the same time share one transaction."""

from __future__ import annotations

from typing import Final, NamedTuple

import structlog

from headrace_core.domain.errors import HeadraceError, RequestIdConflict, Unavailable
from headrace_core.domain.job import Job
from headrace_core.domain.submission import NewJob, Submitted, fingerprint
from headrace_core.runtime.logs import correlation_id
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.new_jobs import new_ids
from headrace_core.store.jobs.submit import find_submitted, submit_jobs
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.group_commit import GroupCommit
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.api.handoff import HandOff
from headrace_gateway.api.intake import AcceptedJob
from headrace_gateway.grpc.document import canonical

_log = structlog.get_logger()

_MAX_BATCH: Final = 1000
# Bytes of payloads that one transaction may carry, and that may wait in all.
_MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
_MAX_PENDING_BYTES: Final = 256 * 1024 * 1024
# How long a transaction waits for more jobs while they come thick, in seconds. A commit costs as
# much as a dozen of the jobs in it.
_GATHER: Final = 0.01


class _Submit(NamedTuple):
    """A submit that waits for its transaction.

    Work for the jobs of a transaction is done together, which is cheaper than in each call.
    """

    job: AcceptedJob
    tenant: str
    request_id: str | None
    correlation_id: str | None


class Submitter:
    """Persists single jobs by group commit.

    Args:
        settings: how many submits may wait, and for how long.
        database: where jobs are stored.
        bus: announces each commit.
        hand_off: is offered what was committed.
    """

    def __init__(
        self, *, settings: Settings, database: Database, bus: WakeBus, hand_off: HandOff
    ) -> None:
        self._database = database
        self._bus = bus
        self._hand_off = hand_off
        self._timeout = settings.call_timeout
        self._commits: GroupCommit[_Submit, Submitted | RequestIdConflict | Exception] = (
            GroupCommit(
                commit=self._commit,
                max_batch=_MAX_BATCH,
                max_pending=settings.max_pending_submits,
                weigh=_weigh,
                max_batch_weight=_MAX_BATCH_BYTES,
                max_pending_weight=_MAX_PENDING_BYTES,
                gather=_GATHER,
            )
        )

    async def submit(self, job: AcceptedJob, *, tenant: str, request_id: str | None) -> Submitted:
        """Persists a job, or finds the one that has its request_id.

        Raises:
            RequestIdConflict: the request_id was used for another content.
            Unavailable: the database is gone or too much waits for it. The job may be stored
                nevertheless; with a request_id the call can be repeated without harm.
        """
        submit = _Submit(job, tenant, request_id, correlation_id())
        try:
            result = await self._commits.submit(submit, timeout=self._timeout)
        except TimeoutError:
            raise Unavailable("postgresql") from None
        if isinstance(result, Exception):
            raise result
        return result

    async def find(self, job: AcceptedJob, *, tenant: str, request_id: str | None) -> Job | None:
        """The job that has the request_id; None when a submit would create one.

        Raises:
            RequestIdConflict: the request_id was used for another content.
            Unavailable: the database is gone.
        """
        if request_id is None:
            return None
        [new] = _new_jobs([_Submit(job, tenant, request_id, "")])
        async with self._database.statement() as conn:
            earlier = await find_submitted(conn, new)
        if isinstance(earlier, RequestIdConflict):
            raise earlier
        return None if earlier is None else earlier.job

    async def close(self) -> None:
        """Takes no more jobs and commits those that wait."""
        await self._commits.close()

    async def _commit(
        self, submits: list[_Submit]
    ) -> list[Submitted | RequestIdConflict | Exception]:
        try:
            return list(await self._persist(submits))
        except HeadraceError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one job's error
            # One job that the database refuses, a bug of ours, must not fail the others.
            if len(submits) == 1:
                return [error]
            _log.exception("batch_refused", jobs=len(submits))
            return [(await self._commit([submit]))[0] for submit in submits]

    async def _persist(self, submits: list[_Submit]) -> list[Submitted | RequestIdConflict]:
        jobs = _new_jobs(submits)
        async with self._database.statement() as conn:
            results = await submit_jobs(conn, jobs)
        stored = [result for result in results if isinstance(result, Submitted) and result.created]
        if stored:
            self._hand_off.offer([submitted.job for submitted in stored])
            self._bus.publish(Topic.EVENTS)
        for submit, result in zip(submits, results, strict=True):
            if isinstance(result, Submitted):
                # It is in the history: a line for each would cost as much as all of its validation.
                _log.debug(
                    "job_submitted",
                    correlation_id=submit.correlation_id,
                    job_id=str(result.job.id),
                    type=result.job.type,
                    queue=result.job.queue,
                    created=result.created,
                )
        return results


def _new_jobs(submits: list[_Submit]) -> list[NewJob]:
    return [
        NewJob(
            id=job_id,
            tenant=submit.tenant,
            spec=submit.job.accepted.spec,
            payload=submit.job.payload,
            request_id=submit.request_id,
            # Without a request_id nothing is compared.
            fingerprint=(
                fingerprint(submit.job.accepted.requested, canonical(submit.job.payload))
                if submit.request_id
                else None
            ),
            requested=submit.job.accepted.requested,
            correlation_id=submit.correlation_id,
        )
        for submit, job_id in zip(submits, new_ids(len(submits)), strict=True)
    ]


def _weigh(submit: _Submit) -> int:
    return len(submit.job.payload)

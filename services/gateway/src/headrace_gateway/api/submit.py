"""Submits: validate jobs, store them once per request_id, and hand them off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Sized
from typing import Final, NamedTuple, TypeAlias

import structlog

from headrace_core.domain.errors import (
    HeadraceError,
    QuotaExceeded,
    RequestIdConflict,
    Unavailable,
    Violation,
)
from headrace_core.domain.ids import BatchId, uuid7
from headrace_core.domain.job import Job, JobSpec
from headrace_core.domain.submission import (
    NewBatch,
    NewJob,
    Repeated,
    SubmittedBatch,
    batch_fingerprint,
    fingerprint,
)
from headrace_core.domain.tenant import NO_QUOTAS
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.submit import find_submitted, submit_jobs
from headrace_core.store.jobs.submit_batch import find_batch, submit_batch
from headrace_core.store.jobs.submit_metered import submit_metered_batch, submit_metered_jobs
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.group_commit import GroupCommit
from headrace_core.store.sql.rows import new_ids
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.access.quotas import TenantQuotas
from headrace_gateway.api.documents import Payload, canonical_text
from headrace_gateway.api.handoff import HandOff
from headrace_gateway.api.intake import Intake
from headrace_gateway.api.job_rules import check_batch_size, check_count
from headrace_gateway.api.registrations import Registrations
from headrace_gateway.api.validation import Violations, call_deadline, check_request_id
from headrace_gateway.api.visibility import visible_batch, visible_job
from headrace_gateway.calls.call import Call

_log = structlog.get_logger()

# The maximum number of independent jobs in a request: as many errors of the largest size fit into
# a response.
MAX_ENTRIES: Final = 256

_MAX_BATCH: Final = 1000
# Maximum payload bytes in one transaction, and in all waiting submits.
_MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
_MAX_PENDING_BYTES: Final = 256 * 1024 * 1024
# Time a transaction waits for more jobs under load, in seconds. A commit costs as much as a dozen
# jobs.
_GATHER_S: Final = 0.01

_Result: TypeAlias = Job | RequestIdConflict | QuotaExceeded | Exception


class ValidatedJobs(NamedTuple):
    """Jobs that were validated but not stored.

    `specs` contains the final queues. `has_workers` is true if live workers run the types of all
    jobs.
    """

    specs: Repeated[JobSpec]
    has_workers: bool


class Submit:
    """The use cases that create jobs.

    Single jobs that arrive at the same time share a transaction, but a tenant with a quota that the
    database counts has transactions of its own, because they wait for each other. A batch has its
    own transaction. Each method reports `violations`, which the transport found in the request,
    together with its own.

    Args:
        settings: the limits of jobs and of waiting submits.
        database: stores the jobs.
        bus: wakes other processes after each commit.
        hand_off: delivers committed jobs without the scheduler, if possible.
        registrations: returns the payload schemas and the queues of the handlers.
        quotas: the quotas of the tenants.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        bus: WakeBus,
        hand_off: HandOff,
        registrations: Registrations,
        quotas: TenantQuotas,
    ) -> None:
        self._settings = settings
        self._database = database
        self._bus = bus
        self._hand_off = hand_off
        self._intake = Intake(settings=settings, registrations=registrations)
        self._quotas = quotas
        self._commits = self._make_commits()
        # By tenant, for the tenants with a counted quota.
        self._metered_commits: dict[str, GroupCommit[NewJob, _Result]] = {}

    async def submit(
        self,
        call: Call,
        spec: JobSpec,
        payload: Payload,
        *,
        request_id: str | None = None,
        use_call_deadline: bool = False,
        violations: Sequence[Violation] = (),
    ) -> tuple[Job, bool]:
        """Store a job, or return the existing job with the same request_id.

        Args:
            call: the context of the request.
            spec: the job, at the field path `job`.
            payload: the job's payload, at `job.payload`.
            request_id: the job's idempotency key.
            use_call_deadline: True to apply the call's deadline to the job.
            violations: see the class.

        Returns:
            The job in the BASIC view, and whether this call created it.

        Raises:
            InvalidRequest: contains every violation. If the only violations are payloads that do
                not match their schemas, its subclass PayloadInvalid is raised.
            LimitExceeded: the payload or the labels exceed a limit.
            PermissionDenied: the job is outside of the caller's scope.
            QuotaExceeded: a quota of the tenant is used up.
            RequestIdConflict: the request_id was used with other content.
            TimeoutError: the caller's deadline passed. The job may have been stored if its commit
                had begun.
            Unavailable: PostgreSQL is not available, or too many submits wait for it. The job may
                have been stored. A call with a request_id can be repeated safely.
        """
        job = await self._new_job(
            call, spec, payload, Violations(violations), key=request_id, expires=use_call_deadline
        )
        # gRPC ends a call at its deadline, but the jobs of one call can have earlier deadlines.
        left = call.time_remaining()
        limit = self._settings.call_timeout
        if left == 0:
            raise TimeoutError
        try:
            result = await self._commits_of(call.tenant).submit(
                job, timeout=limit if left is None else min(left, limit)
            )
        except TimeoutError:
            if left is not None and left < limit:
                raise
            raise Unavailable("postgresql") from None
        if isinstance(result, QuotaExceeded):
            raise self._quotas.reject(call.tenant, result)
        if isinstance(result, Exception):
            raise result
        created = result.id == job.id
        # A new job contains only what the caller has just sent.
        return (result if created else visible_job(call, result)), created

    async def validate(
        self,
        call: Call,
        spec: JobSpec,
        payload: Payload,
        *,
        request_id: str | None = None,
        use_call_deadline: bool = False,
        violations: Sequence[Violation] = (),
    ) -> tuple[Job, bool] | ValidatedJobs:
        """Return the result that `submit` would return, without storing a job.

        See `submit` for the arguments and errors.
        """
        job = await self._new_job(
            call, spec, payload, Violations(violations), key=request_id, expires=use_call_deadline
        )
        if request_id is not None:
            async with self._database.statement() as conn:
                earlier = await find_submitted(conn, job)
            if isinstance(earlier, RequestIdConflict):
                raise earlier
            if earlier is not None:
                return visible_job(call, earlier), False
        specs = Repeated((job.spec,), (0,))
        return ValidatedJobs(specs, await self._intake.have_workers(call, specs))

    def check_entries(self, entries: Sized) -> None:
        """Check the number of independent jobs in a request.

        Raises:
            InvalidRequest: there are none.
            LimitExceeded: there are too many.
        """
        found = Violations()
        check_count(entries, "entries", found, limit="entries of SubmitJobs", maximum=MAX_ENTRIES)
        found.check()

    def count_entry(self, call: Call) -> None:
        """Count a job that was submitted together with others.

        Raises:
            QuotaExceeded: the tenant has submitted too many jobs.
        """
        self._quotas.take_submit(call.tenant)

    def check_batch_size(self, jobs: Sized) -> None:
        """Raise LimitExceeded if a batch has too many jobs.

        A transport calls this before it decodes the jobs: a request can contain a million of them.
        """
        check_batch_size(jobs, Violations(), self._settings)

    async def submit_batch(
        self,
        call: Call,
        specs: Repeated[JobSpec],
        payloads: Sequence[Payload],
        *,
        request_id: str | None = None,
        use_call_deadline: bool = False,
        violations: Sequence[Violation] = (),
    ) -> SubmittedBatch:
        """Store all jobs or none, or return the existing batch with the same request_id.

        Args:
            call: the context of the request.
            specs: the jobs, at the field paths `jobs[0]`, `jobs[1]` …
            payloads: the payload of each job.
            request_id: the batch's idempotency key.
            use_call_deadline: True to apply the call's deadline to the jobs.
            violations: see the class.

        Raises:
            InvalidRequest, LimitExceeded, RequestIdConflict, QuotaExceeded, Unavailable: see
                `submit`.
        """
        # The chain has counted one job.
        self._quotas.take_further_jobs(call.tenant, len(specs) - 1)
        new = await self._new_batch(
            call, specs, payloads, Violations(violations), key=request_id, expires=use_call_deadline
        )
        batch = await self._store_batch(new)
        if batch.created:
            self._announce(batch.jobs)
        _log.info(
            "batch_submitted", batch_id=str(batch.id), jobs=len(batch.jobs), created=batch.created
        )
        return visible_batch(call, batch)

    async def validate_batch(
        self,
        call: Call,
        specs: Repeated[JobSpec],
        payloads: Sequence[Payload],
        *,
        request_id: str | None = None,
        use_call_deadline: bool = False,
        violations: Sequence[Violation] = (),
    ) -> SubmittedBatch | ValidatedJobs:
        """Return the result that `submit_batch` would return, without storing jobs.

        See `submit_batch` for the arguments and errors.
        """
        new = await self._new_batch(
            call, specs, payloads, Violations(violations), key=request_id, expires=use_call_deadline
        )
        if request_id is not None:
            async with self._database.statement() as conn:
                earlier = await find_batch(conn, new)
            if earlier is not None:
                return visible_batch(call, earlier)
        return ValidatedJobs(new.specs, await self._intake.have_workers(call, new.specs))

    async def close(self) -> None:
        """Reject new jobs and commit the waiting jobs."""
        await asyncio.gather(
            self._commits.close(), *(commits.close() for commits in self._metered_commits.values())
        )

    def _make_commits(self) -> GroupCommit[NewJob, _Result]:
        return GroupCommit(
            commit=self._commit,
            max_batch=_MAX_BATCH,
            max_pending=self._settings.max_pending_submits,
            weigh=_weigh,
            max_batch_weight=_MAX_BATCH_BYTES,
            max_pending_weight=_MAX_PENDING_BYTES,
            gather=_GATHER_S,
        )

    def _commits_of(self, tenant: str) -> GroupCommit[NewJob, _Result]:
        if not self._quotas.counted(tenant):
            return self._commits
        commits = self._metered_commits.get(tenant)
        if commits is None:
            commits = self._metered_commits[tenant] = self._make_commits()
        return commits

    async def _store_batch(self, new: NewBatch) -> SubmittedBatch:
        quotas = self._quotas.counted(new.tenant)
        if not quotas:
            async with self._database.statement() as conn:
                return await submit_batch(conn, new)
        try:
            async with self._database.transaction() as conn:
                return await submit_metered_batch(conn, new, quotas=quotas)
        except QuotaExceeded as error:
            self._quotas.reject(new.tenant, error)
            raise

    async def _new_job(
        self,
        call: Call,
        spec: JobSpec,
        payload: Payload,
        found: Violations,
        *,
        key: str | None,
        expires: bool,
    ) -> NewJob:
        """Validate a job to store, or to find by its request_id."""
        check_request_id(key, found)
        specs, texts = await self._intake.accept(
            call,
            Repeated((spec,), (0,)),
            (payload,),
            paths=("job",),
            deadline_after=call_deadline(call, expires, found),
            found=found,
        )
        return NewJob(
            id=new_ids(1)[0],
            tenant=call.tenant,
            spec=specs.distinct[0],
            payload=texts[0],
            request_id=key,
            # Contents are compared only for the same request_id.
            fingerprint=fingerprint(spec, canonical_text(texts[0])) if key else None,
            requested=spec,
            correlation_id=call.correlation_id,
            submitted_by=call.author,
            trace_context=call.trace_context,
        )

    async def _new_batch(
        self,
        call: Call,
        specs: Repeated[JobSpec],
        payloads: Sequence[Payload],
        found: Violations,
        *,
        key: str | None,
        expires: bool,
    ) -> NewBatch:
        """Validate a batch like `_new_job`."""
        check_request_id(key, found)
        check_batch_size(specs, found, self._settings)
        accepted, texts = await self._intake.accept(
            call,
            specs,
            payloads,
            paths=[f"jobs[{number}]" for number in range(len(specs))],
            deadline_after=call_deadline(call, expires, found),
            found=found,
        )
        contents = [canonical_text(text) for text in texts] if key else ()
        return NewBatch(
            id=BatchId(uuid7()),
            tenant=call.tenant,
            specs=accepted,
            payloads=texts,
            request_id=key,
            fingerprint=batch_fingerprint(specs, contents) if key else b"",
            requested=specs,
            correlation_id=call.correlation_id,
            submitted_by=call.author,
            trace_context=call.trace_context,
        )

    async def _commit(self, jobs: list[NewJob]) -> list[_Result]:
        try:
            return list(await self._store(jobs))
        except HeadraceError:
            raise
        except Exception as error:  # noqa: BLE001 - one job may have caused it
            # A job that the database rejects because of a bug must not fail the rest of its group.
            if len(jobs) == 1:
                return [error]
            _log.exception("batch_rejected", jobs=len(jobs))
            return [(await self._commit([job]))[0] for job in jobs]

    async def _store(self, jobs: list[NewJob]) -> Sequence[Job | RequestIdConflict | QuotaExceeded]:
        results: Sequence[Job | RequestIdConflict | QuotaExceeded]
        # The jobs of a tenant with a counted quota are not mixed with others.
        quotas = self._quotas.counted(jobs[0].tenant) if jobs else NO_QUOTAS
        if quotas and all(job.tenant == jobs[0].tenant for job in jobs):
            async with self._database.transaction() as conn:
                results = await submit_metered_jobs(conn, jobs, quotas=quotas)
        else:
            async with self._database.statement() as conn:
                results = await submit_jobs(conn, jobs)
        created = [
            result
            for job, result in zip(jobs, results, strict=True)
            if isinstance(result, Job) and result.id == job.id
        ]
        if created:
            self._announce(created)
        # Only for debugging: a line per job costs as much as validating the job.
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Job):
                _log.debug(
                    "job_submitted",
                    correlation_id=job.correlation_id,
                    job_id=str(result.id),
                    type=result.type,
                    queue=result.queue,
                    created=result.id == job.id,
                )
        return results

    def _announce(self, jobs: Sequence[Job]) -> None:
        """Hand off committed jobs and wake the streams."""
        self._hand_off.offer(jobs)
        self._bus.publish(Topic.EVENTS)


def _weigh(job: NewJob) -> int:
    return len(job.payload)

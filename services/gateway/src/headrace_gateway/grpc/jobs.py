"""JobService: each call reads its request, asks the store and writes its response."""

# ruff: noqa: N802 - the methods bear the contract's names

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import structlog

from headrace.v1 import job_service_pb2
from headrace.v1.data_pb2 import DATA_ENCODING_VALUE
from headrace_core.domain.errors import InvalidRequest
from headrace_core.domain.ids import BatchId, uuid7
from headrace_core.domain.job import JobEvent
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.query import Query
from headrace_core.runtime.logs import correlation_id
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.read import get_job
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.jobs.stats import read_stats
from headrace_core.store.jobs.submit_batch import SubmittedBatch, find_batch, submit_batch
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.wake import Topic, Waker
from headrace_gateway.api.filter import parse_filter
from headrace_gateway.api.intake import Accepted, AcceptedBatch, Intake
from headrace_gateway.api.pages import read_event_page, read_job_page, read_output_page
from headrace_gateway.api.submit import Submitter
from headrace_gateway.api.validate import check_batch_size
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.convert import (
    WATCH_MARKS,
    job_message,
    spec_message,
    stats_message,
    write_batch,
    write_events,
    write_specs,
)
from headrace_gateway.grpc.fields import (
    Violations,
    read_after_seq,
    read_call_deadline,
    read_encoding,
    read_idle_interval,
    read_job_filter,
    read_job_id,
    read_page_size,
    read_request_id,
    read_view,
)
from headrace_gateway.streams import Watch
from headrace_gateway.tokens import decode_page_token, encode_page_token

_log = structlog.get_logger()


class JobServicer:
    """Submits jobs, shows them and follows them.

    Args:
        database: where jobs are.
        installation: signs page tokens.
        waker: is rung after each change.
        intake: validates what is submitted.
        submitter: persists single jobs.
        watch: follows events.
    """

    def __init__(
        self,
        *,
        database: Database,
        installation: Installation,
        waker: Waker,
        intake: Intake,
        submitter: Submitter,
        watch: Watch,
    ) -> None:
        self._database = database
        self._installation = installation
        self._waker = waker
        self._intake = intake
        self._submitter = submitter
        self._watch = watch

    async def SubmitJob(
        self, request: job_service_pb2.SubmitJobRequest, call: Call
    ) -> job_service_pb2.SubmitJobResponse:
        """Persists a job, or says what would happen."""
        tenant = call.tenant
        found = Violations()
        encoding = read_encoding(request.data_encoding, found)
        request_id = read_request_id(request.request_id, found)
        accepted = await self._accept(tenant, request, call, found)
        if request.validate_only:
            earlier = await self._submitter.find(accepted, tenant=tenant, request_id=request_id)
            if earlier is not None:
                return job_service_pb2.SubmitJobResponse(
                    job=job_message(earlier, encoding), outcome=_outcome(created=False)
                )
            return job_service_pb2.SubmitJobResponse(
                job=spec_message(accepted.spec, tenant=tenant, request_id=request_id),
                outcome=_prospect([accepted]),
            )
        submitted = await self._submitter.submit(accepted, tenant=tenant, request_id=request_id)
        return job_service_pb2.SubmitJobResponse(
            job=job_message(submitted.job, encoding), outcome=_outcome(submitted.created)
        )

    async def BatchSubmitJobs(
        self, request: job_service_pb2.BatchSubmitJobsRequest, call: Call
    ) -> job_service_pb2.BatchSubmitJobsResponse:
        """Persists jobs, all or nothing, or says what would happen."""
        tenant = call.tenant
        found = Violations()
        encoding = read_encoding(request.data_encoding, found)
        request_id = read_request_id(request.request_id, found)
        check_batch_size(request.jobs, found, self._intake.settings)
        left = read_call_deadline(request.use_call_deadline, call.time_remaining(), found)
        accepted = await self._intake.accept_batch(tenant, request.jobs, found, deadline_after=left)
        batch: SubmittedBatch | None
        if not request.validate_only:
            batch = await self._submit_batch(tenant, request_id, accepted)
        else:
            batch = await self._find_batch(tenant, request_id, accepted)
        if batch is None:
            response = job_service_pb2.BatchSubmitJobsResponse(outcome=_prospect(accepted.jobs))
            write_specs((job.spec for job in accepted.jobs), tenant, response)
            return response
        response = job_service_pb2.BatchSubmitJobsResponse(
            batch_id=str(batch.id), outcome=_outcome(batch.created)
        )
        write_batch(batch.jobs, response, encoding)
        return response

    async def GetJob(
        self, request: job_service_pb2.GetJobRequest, call: Call
    ) -> job_service_pb2.GetJobResponse:
        """A job as it is now."""
        tenant = call.tenant
        found = Violations()
        job_id = read_job_id(request.job_id, found)
        full = read_view(request.view, found, default_full=True)
        encoding = read_encoding(request.data_encoding, found)
        found.check()
        async with self._database.statement() as conn:
            job = await get_job(conn, tenant=tenant, job_id=job_id, full=full)
        return job_service_pb2.GetJobResponse(job=job_message(job, encoding))

    async def ListJobs(
        self, request: job_service_pb2.ListJobsRequest, call: Call
    ) -> job_service_pb2.ListJobsResponse:
        """A page of jobs."""
        tenant = call.tenant
        found = Violations()
        page_size = read_page_size(request.page_size, found)
        full = read_view(request.view, found, default_full=False)
        encoding = read_encoding(request.data_encoding, found)
        query: Query = ()
        try:
            query = parse_filter(request.filter)
        except InvalidRequest as error:
            found.extend(error.violations)
        found.check()
        before = decode_page_token(self._installation, tenant, request.filter, request.page_token)
        jobs, last = await read_job_page(
            self._database,
            tenant=tenant,
            query=query,
            page_size=page_size,
            before=before,
            full=full,
            encoding=encoding,
        )
        return job_service_pb2.ListJobsResponse(
            jobs=jobs,
            next_page_token=(
                encode_page_token(self._installation, tenant, request.filter, last) if last else ""
            ),
        )

    async def CancelJob(
        self, request: job_service_pb2.CancelJobRequest, call: Call
    ) -> job_service_pb2.CancelJobResponse:
        """Cancels a job that waits, or asks its worker to."""
        tenant = call.tenant
        found = Violations()
        job_id = read_job_id(request.job_id, found)
        found.check()
        async with self._database.transaction() as conn:
            job = await cancel_job(conn, tenant=tenant, job_id=job_id)
        if job.state is JobState.RUNNING:
            self._waker.ring(Topic.CANCELS, Topic.EVENTS)
        else:
            self._waker.ring(Topic.EVENTS)
        _log.info("job_cancel_requested", job_id=str(job_id), state=job.state.name)
        return job_service_pb2.CancelJobResponse(job=job_message(job, DATA_ENCODING_VALUE))

    async def RetryJob(
        self, request: job_service_pb2.RetryJobRequest, call: Call
    ) -> job_service_pb2.RetryJobResponse:
        """Puts a job back that has failed or was cancelled."""
        tenant = call.tenant
        found = Violations()
        job_id = read_job_id(request.job_id, found)
        found.check()
        async with self._database.transaction() as conn:
            job = await requeue_job(conn, tenant=tenant, job_id=job_id)
        self._waker.ring(Topic.JOBS, Topic.EVENTS)
        _log.info("job_requeued", job_id=str(job_id))
        return job_service_pb2.RetryJobResponse(job=job_message(job, DATA_ENCODING_VALUE))

    async def ListJobEvents(
        self, request: job_service_pb2.ListJobEventsRequest, call: Call
    ) -> job_service_pb2.ListJobEventsResponse:
        """A page of a job's events."""
        tenant = call.tenant
        found = Violations()
        job_id = read_job_id(request.job_id, found)
        after_seq = read_after_seq(request.after_seq, found)
        page_size = read_page_size(request.page_size, found)
        encoding = read_encoding(request.data_encoding, found)
        found.check()
        events, last = await read_event_page(
            self._database,
            tenant=tenant,
            job_id=job_id,
            after_seq=after_seq,
            page_size=page_size,
            encoding=encoding,
        )
        return job_service_pb2.ListJobEventsResponse(events=events, next_after_seq=last)

    async def ListJobOutput(
        self, request: job_service_pb2.ListJobOutputRequest, call: Call
    ) -> job_service_pb2.ListJobOutputResponse:
        """A page of a job's output."""
        tenant = call.tenant
        found = Violations()
        job_id = read_job_id(request.job_id, found)
        after_seq = read_after_seq(request.after_seq, found)
        page_size = read_page_size(request.page_size, found)
        encoding = read_encoding(request.data_encoding, found)
        found.check()
        pieces, last = await read_output_page(
            self._database,
            tenant=tenant,
            job_id=job_id,
            after_seq=after_seq,
            page_size=page_size,
            encoding=encoding,
        )
        return job_service_pb2.ListJobOutputResponse(pieces=pieces, next_after_seq=last)

    async def WatchJob(
        self, request: job_service_pb2.WatchJobRequest, call: Call
    ) -> AsyncGenerator[job_service_pb2.WatchJobResponse, None]:
        """A job's events: the history, then live, until it has ended."""
        tenant = call.tenant
        found = Violations()
        job_id = read_job_id(request.job_id, found)
        after_seq = read_after_seq(request.after_seq, found)
        encoding = read_encoding(request.data_encoding, found)
        idle = read_idle_interval(request, found)
        found.check()
        stream = self._watch.watch_job(tenant, job_id, after_seq, idle=idle)
        async with aclosing(stream) as pages:
            async for events in pages:
                response = job_service_pb2.WatchJobResponse(mark=_mark(events))
                write_events(events, response.events, encoding)
                yield response

    async def WatchJobs(
        self, request: job_service_pb2.WatchJobsRequest, call: Call
    ) -> AsyncGenerator[job_service_pb2.WatchJobsResponse, None]:
        """The events of all jobs that match."""
        tenant = call.tenant
        found = Violations()
        job_filter = read_job_filter(request.filter, found)
        encoding = read_encoding(request.data_encoding, found)
        idle = read_idle_interval(request, found)
        found.check()
        stream = self._watch.watch_jobs(tenant, job_filter, request.cursor, idle=idle)
        async with aclosing(stream) as pages:
            async for page in pages:
                response = job_service_pb2.WatchJobsResponse(
                    cursor=page.cursor, mark=WATCH_MARKS[page.mark]
                )
                write_events(page.events, response.events, encoding)
                yield response

    async def SubmitAndWatch(
        self, request: job_service_pb2.SubmitAndWatchRequest, call: Call
    ) -> AsyncGenerator[job_service_pb2.SubmitAndWatchResponse, None]:
        """Persists a job, or finds it by its request_id, and follows it."""
        tenant = call.tenant
        found = Violations()
        encoding = read_encoding(request.data_encoding, found)
        after_seq = read_after_seq(request.after_seq, found)
        request_id = read_request_id(request.request_id, found)
        idle = read_idle_interval(request, found)
        accepted = await self._accept(tenant, request, call, found)
        submitted = await self._submitter.submit(accepted, tenant=tenant, request_id=request_id)
        job = submitted.job
        yield job_service_pb2.SubmitAndWatchResponse(job=job_message(job, encoding))
        stream = self._watch.watch_job(tenant, job.id, after_seq, idle=idle)
        async with aclosing(stream) as pages:
            async for events in pages:
                response = job_service_pb2.SubmitAndWatchResponse(mark=_mark(events))
                write_events(events, response.events, encoding)
                yield response

    async def GetStats(
        self,
        request: job_service_pb2.GetStatsRequest,  # noqa: ARG002 - it has no fields yet
        call: Call,
    ) -> job_service_pb2.GetStatsResponse:
        """How many jobs there are."""
        async with self._database.statement() as conn:
            stats = await read_stats(conn, tenant=call.tenant)
        return stats_message(stats)

    async def _accept(
        self,
        tenant: str,
        request: job_service_pb2.SubmitJobRequest | job_service_pb2.SubmitAndWatchRequest,
        call: Call,
        found: Violations,
    ) -> Accepted:
        if not request.HasField("job"):
            found.note("job", "is required")
            found.check()
        left = read_call_deadline(request.use_call_deadline, call.time_remaining(), found)
        return await self._intake.accept(tenant, request.job, found, deadline_after=left)

    async def _submit_batch(
        self, tenant: str, request_id: str | None, accepted: AcceptedBatch
    ) -> SubmittedBatch:
        async with self._database.statement() as conn:
            batch = await submit_batch(
                conn,
                batch_id=BatchId(uuid7()),
                tenant=tenant,
                request_id=request_id,
                fingerprint=accepted.fingerprint() if request_id else b"",
                former_fingerprint=accepted.former_fingerprint,
                specs=[job.spec for job in accepted.jobs],
                payloads=accepted.payloads,
                correlation_id=correlation_id(),
            )
        self._waker.ring(Topic.JOBS, Topic.EVENTS)
        _log.info(
            "batch_submitted", batch_id=str(batch.id), jobs=len(batch.jobs), created=batch.created
        )
        return batch

    async def _find_batch(
        self, tenant: str, request_id: str | None, accepted: AcceptedBatch
    ) -> SubmittedBatch | None:
        if request_id is None:
            return None
        async with self._database.statement() as conn:
            return await find_batch(
                conn,
                tenant=tenant,
                request_id=request_id,
                fingerprint=accepted.fingerprint(),
                former_fingerprint=accepted.former_fingerprint,
            )


def _mark(events: Sequence[JobEvent]) -> job_service_pb2.WatchMark.ValueType:
    if events:
        return job_service_pb2.WATCH_MARK_UNSPECIFIED
    return job_service_pb2.WATCH_MARK_IDLE


def _outcome(created: bool) -> job_service_pb2.SubmitOutcome.ValueType:
    if created:
        return job_service_pb2.SUBMIT_OUTCOME_CREATED
    return job_service_pb2.SUBMIT_OUTCOME_EXISTING


def _prospect(accepted: Sequence[Accepted]) -> job_service_pb2.SubmitOutcome.ValueType:
    """What would happen to jobs that are only validated."""
    if all(job.has_worker for job in accepted):
        return job_service_pb2.SUBMIT_OUTCOME_WOULD_RUN
    return job_service_pb2.SUBMIT_OUTCOME_NO_WORKER

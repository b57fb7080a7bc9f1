"""JobService: each method converts its request, calls a use case and converts the result."""

# ruff: noqa: N802 - the methods have the names of the contract

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from headrace.v1 import job_service_pb2
from headrace.v1.data_pb2 import DATA_ENCODING_VALUE
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.domain.submission import NewBatch, SubmittedBatch
from headrace_core.runtime.logs import correlation_id
from headrace_core.store.jobs.submit_batch import find_batch, submit_batch
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.api.intake import AcceptedBatch, AcceptedJob, AcceptedSpec, Intake
from headrace_gateway.api.jobs import Jobs
from headrace_gateway.api.submit import Submitter
from headrace_gateway.api.validate import check_batch_size
from headrace_gateway.api.validation import (
    Violations,
    call_deadline,
    check_idle_interval,
    check_request_id,
    parse_job_id,
    seen_seq,
)
from headrace_gateway.api.watch import JobStreams
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.decode import (
    read_encoding,
    read_idle_interval,
    read_job_filter,
    read_view,
)
from headrace_gateway.grpc.encode import (
    WATCH_MARKS,
    Encoding,
    event_message,
    job_message,
    output_message,
    spec_message,
    stats_message,
    write_batch,
    write_events,
    write_specs,
)
from headrace_gateway.grpc.pages import MessagePage

_log = structlog.get_logger()

M = TypeVar("M", bound=Message)


class JobServicer:
    """Submits, reads, changes and streams jobs.

    Args:
        database: where jobs are.
        bus: announces each change.
        intake: validates what is submitted.
        submitter: persists single jobs.
        jobs: the use cases of jobs that exist.
        streams: the use cases that follow jobs.
    """

    def __init__(
        self,
        *,
        database: Database,
        bus: WakeBus,
        intake: Intake,
        submitter: Submitter,
        jobs: Jobs,
        streams: JobStreams,
    ) -> None:
        self._database = database
        self._bus = bus
        self._intake = intake
        self._submitter = submitter
        self._jobs = jobs
        self._streams = streams

    async def SubmitJob(
        self, request: job_service_pb2.SubmitJobRequest, call: Call
    ) -> job_service_pb2.SubmitJobResponse:
        """Persists a job, or says what would happen."""
        tenant = call.tenant
        found = Violations()
        encoding = read_encoding(request.data_encoding, found)
        request_id = request.request_id or None
        check_request_id(request_id, found)
        accepted = await self._accept(tenant, request, call, found)
        if request.validate_only:
            earlier = await self._submitter.find(accepted, tenant=tenant, request_id=request_id)
            if earlier is not None:
                return job_service_pb2.SubmitJobResponse(
                    job=job_message(earlier, encoding), outcome=_outcome(created=False)
                )
            return job_service_pb2.SubmitJobResponse(
                job=spec_message(accepted.accepted.spec, tenant=tenant, request_id=request_id),
                outcome=_prospect([accepted.accepted]),
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
        request_id = request.request_id or None
        check_request_id(request_id, found)
        check_batch_size(request.jobs, found, self._intake.settings)
        left = call_deadline(call, request.use_call_deadline, found)
        accepted = await self._intake.accept_batch(tenant, request.jobs, found, deadline_after=left)
        batch: SubmittedBatch | None
        if not request.validate_only:
            batch = await self._submit_batch(tenant, request_id, accepted)
        else:
            batch = await self._find_batch(tenant, request_id, accepted)
        if batch is None:
            response = job_service_pb2.BatchSubmitJobsResponse(
                outcome=_prospect(accepted.specs.distinct)
            )
            write_specs(accepted.specs.map(lambda accepted: accepted.spec), tenant, response)
            return response
        response = job_service_pb2.BatchSubmitJobsResponse(
            batch_id=str(batch.id), outcome=_outcome(batch.created)
        )
        write_batch(batch.jobs, response, encoding)
        return response

    async def GetJob(
        self, request: job_service_pb2.GetJobRequest, call: Call
    ) -> job_service_pb2.GetJobResponse:
        """Return a job."""
        found = Violations()
        job_id = parse_job_id(request.job_id, found)
        full = read_view(request.view, found, default_full=True)
        encoding = read_encoding(request.data_encoding, found)
        found.check()
        job = await self._jobs.get(call, job_id, full=full)
        return job_service_pb2.GetJobResponse(job=job_message(job, encoding))

    async def ListJobs(
        self, request: job_service_pb2.ListJobsRequest, call: Call
    ) -> job_service_pb2.ListJobsResponse:
        """List the jobs that match a filter, the newest first."""
        found = Violations()
        full = read_view(request.view, found, default_full=False)
        encoding = read_encoding(request.data_encoding, found)
        page = MessagePage(partial(job_message, encoding=encoding))
        token = await self._jobs.list(
            call,
            page,
            query=request.filter,
            size=request.page_size,
            token=request.page_token,
            full=full,
            violations=found,
        )
        return job_service_pb2.ListJobsResponse(jobs=page.messages, next_page_token=token)

    async def CancelJob(
        self, request: job_service_pb2.CancelJobRequest, call: Call
    ) -> job_service_pb2.CancelJobResponse:
        """Cancel a waiting job, or ask the worker of a running one to end it."""
        job = await self._jobs.cancel(call, _job_id(request))
        return job_service_pb2.CancelJobResponse(job=job_message(job, DATA_ENCODING_VALUE))

    async def RetryJob(
        self, request: job_service_pb2.RetryJobRequest, call: Call
    ) -> job_service_pb2.RetryJobResponse:
        """Queue a failed or cancelled job again."""
        job = await self._jobs.requeue(call, _job_id(request))
        return job_service_pb2.RetryJobResponse(job=job_message(job, DATA_ENCODING_VALUE))

    async def ListJobEvents(
        self, request: job_service_pb2.ListJobEventsRequest, call: Call
    ) -> job_service_pb2.ListJobEventsResponse:
        """List the events of a job."""
        page, last = await self._log_page(request, call, event_message)
        return job_service_pb2.ListJobEventsResponse(events=page, next_after_seq=last)

    async def ListJobOutput(
        self, request: job_service_pb2.ListJobOutputRequest, call: Call
    ) -> job_service_pb2.ListJobOutputResponse:
        """List the output of a job."""
        page, last = await self._log_page(request, call, output_message, only_output=True)
        return job_service_pb2.ListJobOutputResponse(pieces=page, next_after_seq=last)

    async def GetStats(
        self,
        request: job_service_pb2.GetStatsRequest,  # noqa: ARG002 - it has no fields yet
        call: Call,
    ) -> job_service_pb2.GetStatsResponse:
        """Count the jobs of the tenant."""
        return stats_message(await self._jobs.stats(call))

    async def WatchJob(
        self, request: job_service_pb2.WatchJobRequest, call: Call
    ) -> AsyncGenerator[job_service_pb2.WatchJobResponse, None]:
        """Send the events of a job, past and new, until the job has ended."""
        found = Violations()
        job_id = parse_job_id(request.job_id, found)
        encoding = read_encoding(request.data_encoding, found)
        stream = self._streams.watch_job(
            call,
            job_id,
            after_seq=request.after_seq,
            idle=read_idle_interval(request),
            violations=found,
        )
        async with aclosing(stream) as pages:
            async for events in pages:
                response = job_service_pb2.WatchJobResponse(mark=_mark(events))
                write_events(events, response.events, encoding)
                yield response

    async def WatchJobs(
        self, request: job_service_pb2.WatchJobsRequest, call: Call
    ) -> AsyncGenerator[job_service_pb2.WatchJobsResponse, None]:
        """Send the events of all jobs that match a filter."""
        found = Violations()
        job_filter = read_job_filter(request.filter, found)
        encoding = read_encoding(request.data_encoding, found)
        stream = self._streams.watch_jobs(
            call,
            job_filter,
            cursor=request.cursor,
            idle=read_idle_interval(request),
            violations=found,
        )
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
        after_seq = seen_seq(request.after_seq, found)
        request_id = request.request_id or None
        check_request_id(request_id, found)
        idle = read_idle_interval(request)
        check_idle_interval(idle, found)
        accepted = await self._accept(tenant, request, call, found)
        submitted = await self._submitter.submit(accepted, tenant=tenant, request_id=request_id)
        job = submitted.job
        yield job_service_pb2.SubmitAndWatchResponse(job=job_message(job, encoding))
        stream = self._streams.watch_job(call, job.id, after_seq=after_seq, idle=idle)
        async with aclosing(stream) as pages:
            async for events in pages:
                response = job_service_pb2.SubmitAndWatchResponse(mark=_mark(events))
                write_events(events, response.events, encoding)
                yield response

    async def _log_page(
        self,
        request: job_service_pb2.ListJobEventsRequest | job_service_pb2.ListJobOutputRequest,
        call: Call,
        convert: Callable[[JobEvent, Encoding], M],
        *,
        only_output: bool = False,
    ) -> tuple[Sequence[M], int]:
        """Return a page of the log of a job, and the number to continue after, 0 at the end."""
        found = Violations()
        job_id = parse_job_id(request.job_id, found)
        encoding = read_encoding(request.data_encoding, found)
        page = MessagePage[JobEvent, M](lambda event: convert(event, encoding))
        last = await self._jobs.list_events(
            call,
            page,
            job_id=job_id,
            after_seq=request.after_seq,
            size=request.page_size,
            only_output=only_output,
            violations=found,
        )
        return page.messages, last

    async def _accept(
        self,
        tenant: str,
        request: job_service_pb2.SubmitJobRequest | job_service_pb2.SubmitAndWatchRequest,
        call: Call,
        found: Violations,
    ) -> AcceptedJob:
        if not request.HasField("job"):
            found.note("job", "is required")
            found.check()
        left = call_deadline(call, request.use_call_deadline, found)
        return await self._intake.accept(tenant, request.job, found, deadline_after=left)

    async def _submit_batch(
        self, tenant: str, request_id: str | None, accepted: AcceptedBatch
    ) -> SubmittedBatch:
        async with self._database.statement() as conn:
            batch = await submit_batch(conn, _new_batch(tenant, request_id, accepted))
        self._bus.publish(Topic.JOBS, Topic.EVENTS)
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
            return await find_batch(conn, _new_batch(tenant, request_id, accepted))


def _new_batch(tenant: str, request_id: str | None, accepted: AcceptedBatch) -> NewBatch:
    return accepted.new_batch(tenant=tenant, request_id=request_id, correlation_id=correlation_id())


def _job_id(request: job_service_pb2.CancelJobRequest | job_service_pb2.RetryJobRequest) -> JobId:
    found = Violations()
    job_id = parse_job_id(request.job_id, found)
    found.check()
    return job_id


def _mark(events: Sequence[JobEvent]) -> job_service_pb2.WatchMark.ValueType:
    if events:
        return job_service_pb2.WATCH_MARK_UNSPECIFIED
    return job_service_pb2.WATCH_MARK_IDLE


def _outcome(created: bool) -> job_service_pb2.SubmitOutcome.ValueType:
    if created:
        return job_service_pb2.SUBMIT_OUTCOME_CREATED
    return job_service_pb2.SUBMIT_OUTCOME_EXISTING


def _prospect(accepted: Sequence[AcceptedSpec]) -> job_service_pb2.SubmitOutcome.ValueType:
    """What would happen to jobs that are only validated."""
    if all(job.has_worker for job in accepted):
        return job_service_pb2.SUBMIT_OUTCOME_WOULD_RUN
    return job_service_pb2.SUBMIT_OUTCOME_NO_WORKER

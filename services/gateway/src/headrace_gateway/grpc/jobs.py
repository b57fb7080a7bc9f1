"""JobService: each method converts its request, calls a use case and converts the result."""

# ruff: noqa: N802 - the methods have the names of the contract

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, TypeVar

import structlog
from google.protobuf.message import Message

from headrace.v1 import job_pb2, job_service_pb2
from headrace.v1.data_pb2 import DATA_ENCODING_VALUE
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.domain.lifecycle import TERMINAL
from headrace_core.runtime.tracing import Tracing
from headrace_gateway.api.jobs import Jobs
from headrace_gateway.api.submit import Submit, ValidatedJobs
from headrace_gateway.api.validation import (
    Violations,
    check_idle_interval,
    limit_after_position,
    limit_after_seq,
    parse_job_id,
)
from headrace_gateway.api.watch import JobStreams
from headrace_gateway.calls.call import Call
from headrace_gateway.calls.errors import Failures
from headrace_gateway.calls.traces import SubmitSpans
from headrace_gateway.grpc.decode import (
    WatchRequest,
    read_encoding,
    read_entry_call,
    read_idle_interval,
    read_job,
    read_job_filter,
    read_jobs,
    read_view,
)
from headrace_gateway.grpc.encode import (
    WATCH_MARKS,
    Encoding,
    event_message,
    job_message,
    log_line_message,
    output_message,
    reduce_results,
    spec_message,
    stats_message,
    write_batch,
    write_events,
    write_specs,
)
from headrace_gateway.grpc.pages import MessagePage

M = TypeVar("M", bound=Message)

_SUBMIT_JOBS: Final = "/headrace.v1.JobService/SubmitJobs"


class JobServicer:
    """Submits, reads, changes and streams jobs.

    Args:
        submit: the use cases that create jobs.
        jobs: the use cases of stored jobs.
        streams: the use cases that follow jobs.
        failures: records the errors of single entries.
        tracing: receives the spans of single entries; None if the gateway writes none.
    """

    def __init__(
        self,
        *,
        submit: Submit,
        jobs: Jobs,
        streams: JobStreams,
        failures: Failures,
        tracing: Tracing | None = None,
    ) -> None:
        self._submit = submit
        self._jobs = jobs
        self._streams = streams
        self._failures = failures
        self._spans = None if tracing is None else SubmitSpans(tracing, _SUBMIT_JOBS)

    async def SubmitJob(
        self, request: job_service_pb2.SubmitJobRequest, call: Call
    ) -> job_service_pb2.SubmitJobResponse:
        """Store a job, or only validate it."""
        found = Violations()
        encoding = read_encoding(request.data_encoding, found)
        spec, payload = read_job(request, found)
        submit = self._submit.validate if request.validate_only else self._submit.submit
        result = await submit(
            call,
            spec,
            payload,
            request_id=request.request_id or None,
            use_call_deadline=request.use_call_deadline,
            violations=found,
        )
        if isinstance(result, ValidatedJobs):
            return job_service_pb2.SubmitJobResponse(
                job=spec_message(
                    result.specs[0], tenant=call.tenant, request_id=request.request_id
                ),
                outcome=_validation_outcome(result),
            )
        job, created = result
        return job_service_pb2.SubmitJobResponse(
            job=job_message(job, encoding), outcome=_submit_outcome(created)
        )

    async def SubmitJobs(
        self, request: job_service_pb2.SubmitJobsRequest, call: Call
    ) -> job_service_pb2.SubmitJobsResponse:
        """Store jobs that are independent of each other."""
        self._submit.check_entries(request.entries)
        response = job_service_pb2.SubmitJobsResponse()
        await asyncio.gather(
            *(self._submit_entry(entry, response.results.add(), call) for entry in request.entries)
        )
        reduce_results(response)
        return response

    async def _submit_entry(
        self,
        entry: job_service_pb2.SubmitJobsEntry,
        result: job_service_pb2.SubmitJobsResult,
        call: Call,
    ) -> None:
        """Write to `result` what SubmitJob would return for an entry."""
        try:
            call = read_entry_call(entry, call)
            # Each entry runs in its own task, with its own context.
            structlog.contextvars.bind_contextvars(correlation_id=call.correlation_id)
            self._submit.count_entry(call)
            submit = partial(self.SubmitJob, entry.request)
            response = await (self._spans.trace(call, submit) if self._spans else submit(call))
            result.response.CopyFrom(response)
        except Exception as error:  # noqa: BLE001 - every error becomes the status of its entry
            status = self._failures.record(
                _SUBMIT_JOBS,
                error,
                request_id=call.correlation_id,
                address=call.address,
                call=call,
                request=entry.request,
            )
            # A CallStatus has the fields of a google.rpc.Status.
            result.error.MergeFromString(status.serialize())

    async def BatchSubmitJobs(
        self, request: job_service_pb2.BatchSubmitJobsRequest, call: Call
    ) -> job_service_pb2.BatchSubmitJobsResponse:
        """Store all jobs or none, or only validate them."""
        found = Violations()
        encoding = read_encoding(request.data_encoding, found)
        self._submit.check_batch_size(request.jobs)
        specs, payloads = read_jobs(request, found)
        submit = self._submit.validate_batch if request.validate_only else self._submit.submit_batch
        result = await submit(
            call,
            specs,
            payloads,
            request_id=request.request_id or None,
            use_call_deadline=request.use_call_deadline,
            violations=found,
        )
        response = job_service_pb2.BatchSubmitJobsResponse()
        if isinstance(result, ValidatedJobs):
            response.outcome = _validation_outcome(result)
            write_specs(result.specs, call.tenant, response)
        else:
            response.outcome = _submit_outcome(result.created)
            response.batch_id = str(result.id)
            write_batch(result.jobs, response, encoding)
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
        """List the jobs that match a filter, newest first."""
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
        """Cancel a waiting job, or ask the worker of a running job to end it."""
        found = Violations()
        job_id = parse_job_id(request.job_id, found)
        job = await self._jobs.cancel(call, job_id, reason=request.reason, violations=found)
        return job_service_pb2.CancelJobResponse(job=job_message(job, DATA_ENCODING_VALUE))

    async def RetryJob(
        self, request: job_service_pb2.RetryJobRequest, call: Call
    ) -> job_service_pb2.RetryJobResponse:
        """Queue a failed or cancelled job again."""
        found = Violations()
        job_id = parse_job_id(request.job_id, found)
        job = await self._jobs.requeue(call, job_id, reason=request.reason, violations=found)
        return job_service_pb2.RetryJobResponse(job=job_message(job, DATA_ENCODING_VALUE))

    async def ListJobEvents(
        self, request: job_service_pb2.ListJobEventsRequest, call: Call
    ) -> job_service_pb2.ListJobEventsResponse:
        """List the events of a job."""
        page, last = await self._read_log_page(request, call, event_message)
        return job_service_pb2.ListJobEventsResponse(events=page, next_after_seq=last)

    async def ListJobOutput(
        self, request: job_service_pb2.ListJobOutputRequest, call: Call
    ) -> job_service_pb2.ListJobOutputResponse:
        """List the output of a job."""
        page, last = await self._read_log_page(request, call, output_message, only_output=True)
        return job_service_pb2.ListJobOutputResponse(pieces=page, next_after_seq=last)

    async def ListJobLogs(
        self, request: job_service_pb2.ListJobLogsRequest, call: Call
    ) -> job_service_pb2.ListJobLogsResponse:
        """List the log lines of a job."""
        found = Violations()
        job_id = parse_job_id(request.job_id, found)
        encoding = read_encoding(request.data_encoding, found)
        page = MessagePage(partial(log_line_message, encoding=encoding))
        last = await self._jobs.list_logs(
            call,
            page,
            job_id=job_id,
            after=request.after_position,
            size=request.page_size,
            violations=found,
        )
        return job_service_pb2.ListJobLogsResponse(lines=page.messages, next_after_position=last)

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
        after_seq, idle = limit_after_seq(request.after_seq, found), _idle_interval(request, found)
        found.check()
        stream = self._streams.watch_job(call, job_id, after_seq, idle=idle)
        async with aclosing(stream) as pages:
            async for events in pages:
                response = job_service_pb2.WatchJobResponse(mark=_mark_of(events))
                write_events(events, response.events, encoding)
                yield response
        if request.include_job and (ended := await self._ended_job(call, job_id, encoding)):
            yield job_service_pb2.WatchJobResponse(ended_job=ended)

    async def WatchJobLogs(
        self, request: job_service_pb2.WatchJobLogsRequest, call: Call
    ) -> AsyncGenerator[job_service_pb2.WatchJobLogsResponse, None]:
        """Send the log lines of a job, past and new, until the job has ended."""
        found = Violations()
        job_id = parse_job_id(request.job_id, found)
        encoding = read_encoding(request.data_encoding, found)
        after = limit_after_position(request.after_position, found)
        idle = _idle_interval(request, found)
        found.check()
        stream = self._streams.watch_job_logs(call, job_id, after, idle=idle)
        async with aclosing(stream) as pages:
            async for update in pages:
                yield job_service_pb2.WatchJobLogsResponse(
                    lines=[log_line_message(line, encoding) for line in update.lines],
                    mark=WATCH_MARKS[update.mark],
                )

    async def WatchJobs(
        self, request: job_service_pb2.WatchJobsRequest, call: Call
    ) -> AsyncGenerator[job_service_pb2.WatchJobsResponse, None]:
        """Send the events of all jobs that match a filter."""
        found = Violations()
        job_filter = read_job_filter(request.filter, found)
        encoding = read_encoding(request.data_encoding, found)
        idle = _idle_interval(request, found)
        found.check()
        stream = self._streams.watch_jobs(call, job_filter, request.cursor, idle=idle)
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
        """Store a job, or find it by its request_id, and send its events."""
        found = Violations()
        encoding = read_encoding(request.data_encoding, found)
        spec, payload = read_job(request, found)
        after_seq, idle = limit_after_seq(request.after_seq, found), _idle_interval(request, found)
        job, _ = await self._submit.submit(
            call,
            spec,
            payload,
            request_id=request.request_id or None,
            use_call_deadline=request.use_call_deadline,
            violations=found,
        )
        stream = self._streams.watch_job(call, job.id, after_seq, idle=idle)
        async with aclosing(stream) as pages:
            yield job_service_pb2.SubmitAndWatchResponse(job=job_message(job, encoding))
            async for events in pages:
                response = job_service_pb2.SubmitAndWatchResponse(mark=_mark_of(events))
                write_events(events, response.events, encoding)
                yield response
        if request.include_job and (ended := await self._ended_job(call, job.id, encoding)):
            yield job_service_pb2.SubmitAndWatchResponse(ended_job=ended)

    async def _ended_job(self, call: Call, job_id: JobId, encoding: Encoding) -> job_pb2.Job | None:
        """Return a job whose stream has ended; None if it was requeued since."""
        job = await self._jobs.get(call, job_id, full=True)
        return job_message(job, encoding) if job.state in TERMINAL else None

    async def _read_log_page(
        self,
        request: job_service_pb2.ListJobEventsRequest | job_service_pb2.ListJobOutputRequest,
        call: Call,
        convert: Callable[[JobEvent, Encoding], M],
        *,
        only_output: bool = False,
    ) -> tuple[Sequence[M], int]:
        """Return a page of a job's events, and the number to continue after; 0 at the end."""
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


def _idle_interval(request: WatchRequest, found: Violations) -> float | None:
    seconds = read_idle_interval(request)
    check_idle_interval(seconds, found)
    return seconds


def _mark_of(events: Sequence[JobEvent]) -> job_service_pb2.WatchMark.ValueType:
    if events:
        return job_service_pb2.WATCH_MARK_UNSPECIFIED
    return job_service_pb2.WATCH_MARK_IDLE


def _validation_outcome(result: ValidatedJobs) -> job_service_pb2.SubmitOutcome.ValueType:
    if result.has_workers:
        return job_service_pb2.SUBMIT_OUTCOME_WOULD_RUN
    return job_service_pb2.SUBMIT_OUTCOME_NO_WORKER


def _submit_outcome(created: bool) -> job_service_pb2.SubmitOutcome.ValueType:
    if created:
        return job_service_pb2.SUBMIT_OUTCOME_CREATED
    return job_service_pb2.SUBMIT_OUTCOME_EXISTING

"""The asynchronous client."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta
from math import inf
from types import TracebackType
from typing import Any, Final, Self, Unpack

from grpc.aio import UnaryStreamCall

from headrace import _process
from headrace._access import AccessCalls
from headrace._audit import AuditCalls
from headrace._batches import MAX_BATCH_JOBS, batches
from headrace._calls import Calls, random_key
from headrace._convert import (
    JSON,
    from_event,
    from_handler,
    from_job,
    from_log_line,
    from_outcome,
    from_output,
    from_stats,
    to_filter,
    to_spec,
    write_spec,
)
from headrace._gateways import Gateway, Gateways, health_request, parse_targets
from headrace._headers import (
    CORRELATION_ID,
    Metadata,
    Secret,
    TokenProvider,
    resolve_headers,
    trace_headers,
)
from headrace._monitor import MonitorCalls
from headrace._sessions import SessionCalls
from headrace._subscriptions import SubscriptionCalls
from headrace._tenants import TenantCalls
from headrace._timing import DEFAULT, Timing, check_seconds
from headrace._users import UserCalls
from headrace.errors import CallError, Refusal, Unavailable
from headrace.event import JobEvent
from headrace.handle import Batch, JobHandle, result_of
from headrace.job import Job, JobOptions, JobOutput, JobSpec, JobState
from headrace.job_log import JobLogLine
from headrace.stats import HandlerInfo, Stats
from headrace.tls import TLS, resolve_tls
from headrace.v1 import handler_service_pb2, job_pb2, job_service_pb2
from headrace.watch import JobWatch, LogWatch, Watch

# From grpc.health.v1.HealthCheckResponse.ServingStatus.
_SERVING: Final = 1
# The maximum of an int64.
_MAX_SEQ: Final = 2**63 - 1
# Maximum length of a correlation id, in characters; the gateway replaces a longer id.
_MAX_CORRELATION_ID: Final = 128


class Client(
    SubscriptionCalls,
    AccessCalls,
    AuditCalls,
    MonitorCalls,
    SessionCalls,
    TenantCalls,
    UserCalls,
):
    """The asynchronous client: submits jobs and follows them.

    Every call is retried while no gateway is available. Retrying a submit is safe, because each
    submit has a `request_id`. Streams resume after a disconnect. A client belongs to one event
    loop.

        async with Client() as client:
            job = await client.submit("square_sum", {"data": [1, 2, 3]})
            async for event in job.watch():
                print(event.state)
            print(await job.result())

    Args:
        target: the address of a gateway as `host:port`, or several addresses in a list or separated
            by commas. The client uses the first reachable gateway, and the next gateway if that
            gateway fails. None: the value of HEADRACE_TARGET, or 127.0.0.1:50051.
        token: an access token. Without `token`, `api_key` and `token_provider`, the credential is
            the value of HEADRACE_TOKEN or HEADRACE_API_KEY, or the client certificate.
        api_key: an API key, `hr_…`.
        token_provider: returns an access token or an API key. The client calls it before its first
            call, and again when a gateway rejects the credential. Then the client repeats the call
            once, and streams resume. Errors of the provider are passed on.
        tls: the certificates of the connection; True for TLS with the public CAs; False for
            plaintext. None: the values of HEADRACE_TLS_CA, HEADRACE_TLS_CERT and HEADRACE_TLS_KEY,
            or TLS with the public CAs if HEADRACE_TLS is true, or plaintext.
        insecure: send the credential in plaintext even to another machine; others can read it.
        tenant: the tenant of all calls, for a principal that may act in other tenants than its own.
        metadata: further headers of all calls.
        timeout: the deadline of a unary call including all retries, in seconds.
        retries: maximum number of retries of a unary call while no gateway is available.
        resume_timeout: maximum time to resume a stream, in seconds.

    Raises:
        ValueError: an argument is out of range or malformed, or several credentials are given.
        InsecureConnection: the credential would be sent to another machine in plaintext.
        OSError: a certificate cannot be read.
        MonkeyPatched: gevent or eventlet has replaced threads, sockets or select in this process.

    Every call raises a `CallError` if it is rejected or fails.
    """

    def __init__(
        self,
        target: str | Sequence[str] | None = None,
        *,
        token: str | None = None,
        api_key: str | None = None,
        token_provider: TokenProvider | None = None,
        tls: TLS | bool | None = None,
        insecure: bool = False,
        tenant: str | None = None,
        metadata: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        timeout: float = 10.0,
        retries: int = 5,
        resume_timeout: float = 60.0,
        _timing: Timing = DEFAULT,
    ) -> None:
        check_seconds("timeout", timeout)
        check_seconds("resume_timeout", resume_timeout, zero=True, endless=True)
        if not 0 <= retries < inf:
            raise ValueError(f"retries is {retries}; it must be 0 or more")
        _process.check_monkey_patches()
        # An error report may contain local variables.
        token = Secret(token) if isinstance(token, str) else token
        api_key = Secret(api_key) if isinstance(api_key, str) else api_key
        targets, certificates = parse_targets(target), resolve_tls(tls)
        headers = resolve_headers(
            targets=targets,
            encrypted=certificates is not None,
            insecure=insecure,
            token=token,
            api_key=api_key,
            provider=token_provider,
            tenant=tenant,
            metadata=metadata,
            timeout=timeout,
        )
        self._gateways = Gateways(targets, certificates)
        self._calls = Calls(
            gateways=self._gateways,
            timeout=timeout,
            retries=retries,
            resume_timeout=resume_timeout,
            headers=headers,
            timing=_timing,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections and cancel their calls."""
        await self._gateways.close()

    # Submits.

    async def submit(
        self,
        job_type: str,
        payload: Any = None,
        *,
        request_id: str | None = None,
        validate_only: bool = False,
        use_call_deadline: bool = False,
        call_timeout: float | None = None,
        correlation_id: str | None = None,
        **options: Unpack[JobOptions],
    ) -> JobHandle:
        """Submit a job, and return once it is stored.

        Concurrent calls share messages, which multiplies their throughput. Each call keeps its own
        result, deadline and cancellation.

        Args:
            job_type: the job type, which selects the handler.
            payload: the handler's input, any JSON value. None: an empty object.
            request_id: the idempotency key, 1 to 128 characters. The same key with the same content
                returns the same job. None: a random key.
            validate_only: store nothing; the handle's `outcome` is the result of the validation.
            use_call_deadline: use the deadline of this call as the job's deadline, so the job
                expires if the caller times out.
            call_timeout: the deadline of this call including all retries, in seconds. None: the
                client's timeout.
            correlation_id: an id that is added to all log lines about the job and passed to its
                handler; 1 to 128 printable ASCII characters. None: the gateway creates an id.
            options: queue, priority, labels, delay or schedule_time, timeout, deadline, retry; see
                `JobSpec`.
        """
        request = job_service_pb2.SubmitJobRequest(
            job=to_spec(JobSpec(job_type, payload, **options)),
            request_id=request_id or random_key(),
            validate_only=validate_only,
            use_call_deadline=use_call_deadline,
            data_encoding=JSON,
        )
        response = await self._calls.unary(
            lambda gateway: gateway.submit,
            request,
            timeout=call_timeout,
            metadata=_submit_metadata(correlation_id),
            punctual=True,
        )
        job = response.job
        return JobHandle(self, job.id, message=job, outcome=from_outcome(response.outcome))

    async def submit_many(
        self,
        jobs: Iterable[JobSpec],
        *,
        request_id: str | None = None,
        validate_only: bool = False,
        use_call_deadline: bool = False,
        call_timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> Batch:
        """Submit 1 to 1,000 jobs: all or none.

        Args:
            jobs: the jobs to submit. Use `submit_in_batches` for more than 1,000.
            request_id: the idempotency key of the batch. None: a random key.
            validate_only: store nothing; the batch's `outcome` is the result of the validation.
            use_call_deadline, call_timeout, correlation_id: see `submit`, for each job.

        Raises:
            ValueError: the number of jobs is 0 or more than 1,000.
        """
        request = job_service_pb2.BatchSubmitJobsRequest(
            validate_only=validate_only, use_call_deadline=use_call_deadline
        )
        for spec in jobs:
            write_spec(spec, request.jobs.add())
        if not 1 <= len(request.jobs) <= MAX_BATCH_JOBS:
            raise ValueError(
                f"{len(request.jobs)} jobs; a batch must have 1 to {MAX_BATCH_JOBS:,} jobs. "
                "Use submit_in_batches for any number"
            )
        return await self._submit_batch(
            request,
            request_id or random_key(),
            timeout=call_timeout,
            metadata=_submit_metadata(correlation_id),
        )

    async def submit_in_batches(
        self,
        jobs: Iterable[JobSpec] | AsyncIterable[JobSpec],
        *,
        size: int = MAX_BATCH_JOBS,
        in_flight: int = 1,
        request_id: str | None = None,
        correlation_id: str | None = None,
    ) -> AsyncGenerator[Batch, None]:
        """Submit any number of jobs in batches, and yield each batch.

        Each batch is stored completely or not at all. `jobs` is read while batches are submitted,
        so it can be endless. A batch ends early if it would be too large for a request.

        Args:
            jobs: the jobs to submit.
            size: maximum number of jobs in a batch, 1 to 1,000.
            in_flight: maximum number of concurrent calls. With 1, each batch is submitted after the
                caller has received the previous batch. With more, client, gateway and database work
                in parallel. If the caller stops early, up to `in_flight` further batches may
                already have been submitted.
            request_id: the idempotency key of all batches. A repeated call with the same jobs and
                size submits only missing jobs. At most 100 characters. None: a random key.
            correlation_id: see `submit`; applies to all jobs.

        Raises:
            ValueError: `size` or `in_flight` is out of range.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}; it must be at least 1")
        key = request_id or random_key()
        metadata = _submit_metadata(correlation_id)
        calls: deque[asyncio.Task[Batch]] = deque()
        number = 0
        try:
            async with aclosing(batches(jobs, size)) as requests:
                async for request in requests:
                    number += 1
                    call = self._submit_batch(request, f"{key}/{number}", metadata=metadata)
                    calls.append(asyncio.create_task(call))
                    # Let the call start before the next request is built.
                    await asyncio.sleep(0)
                    while calls and (len(calls) >= in_flight or calls[0].done()):
                        yield await calls.popleft()
            while calls:
                yield await calls.popleft()
        finally:
            for task in calls:
                task.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _submit_batch(
        self,
        request: job_service_pb2.BatchSubmitJobsRequest,
        request_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - sent to the server
        metadata: Metadata = (),
    ) -> Batch:
        request.request_id = request_id
        request.data_encoding = JSON
        response = await self._calls.unary(
            lambda gateway: gateway.jobs.BatchSubmitJobs,
            request,
            timeout=timeout,
            metadata=metadata,
        )
        outcome = from_outcome(response.outcome)
        return Batch(
            id=response.batch_id,
            jobs=tuple(
                JobHandle(self, job.id, message=job, outcome=outcome) for job in response.jobs
            ),
            outcome=outcome,
        )

    def submit_and_watch(
        self,
        job_type: str,
        payload: Any = None,
        *,
        request_id: str | None = None,
        after_seq: int = 0,
        include_job: bool = False,
        correlation_id: str | None = None,
        **options: Unpack[JobOptions],
    ) -> JobWatch:
        """Submit a job and yield its events until the terminal event, in one call.

        The call starts when the caller first waits for an event.

        Args:
            job_type: the job type, which selects the handler.
            payload: the handler's input.
            request_id: the idempotency key. The key of an earlier call re-attaches to the job of
                that call. None: a random key.
            after_seq: when re-attaching, the number of the last received event.
            include_job: request the ended job, with its result, as `JobWatch.ended_job`.
            correlation_id, options: see `submit`.
        """
        _check_after_seq(after_seq)
        spec = to_spec(JobSpec(job_type, payload, **options))
        key = request_id or random_key()
        metadata = _submit_metadata(correlation_id)

        def start(gateway: Gateway, headers: Metadata, seq: int) -> UnaryStreamCall[Any, Any]:
            return gateway.jobs.SubmitAndWatch(
                job_service_pb2.SubmitAndWatchRequest(
                    job=spec,
                    request_id=key,
                    after_seq=seq,
                    data_encoding=JSON,
                    include_job=include_job,
                ),
                metadata=(*headers, *metadata),
            )

        return JobWatch(self._calls, start=start, after_seq=after_seq)

    async def run(
        self,
        job_type: str,
        payload: Any = None,
        *,
        wait_timeout: float | None = None,
        cancel: bool = False,
        request_id: str | None = None,
        correlation_id: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Any:
        """Submit a job, wait until it ends, and return its result, in one call to the gateway.

        After a disconnect, the client continues to wait for the same job, at any gateway.

        Args:
            job_type: the job type, which selects the handler.
            payload: the handler's input.
            wait_timeout: the maximum wait in seconds. None: no limit.
            cancel: cancel the job if the caller stops waiting, because the caller is cancelled or
                the wait times out. The cancellation can take up to the client's timeout longer. It
                also cancels a submit without a response, whose job may start meanwhile. False: the
                job continues.
            request_id: the idempotency key. A repeated call waits for the job of the first one.
                None: a random key.
            correlation_id, options: see `submit`.

        Raises:
            JobFailed: the job ended as FAILED.
            JobCancelled: the job ended as CANCELLED.
            PermissionDenied: the job SUCCEEDED, but the credential lacks the right `payload:read`.
            TimeoutError: the job did not end in time.
            ValueError: `wait_timeout` is NaN or negative.
        """
        if wait_timeout is not None:
            check_seconds("wait_timeout", wait_timeout, zero=True, endless=True)
        key = request_id or random_key()
        watch = self.submit_and_watch(
            job_type,
            payload,
            request_id=key,
            include_job=True,
            correlation_id=correlation_id,
            **options,
        )
        try:
            async with asyncio.timeout(wait_timeout), watch:
                async for _ in watch:
                    pass
                job = watch.ended_job or await self.job(watch.job_id).finished()
        except (TimeoutError, asyncio.CancelledError):
            if cancel:
                # The job may have ended.
                with suppress(CallError):
                    job_id = watch.job_id
                    if not job_id:
                        # The submit may be stored without a response. Its repetition finds the job.
                        handle = await self.submit(
                            job_type,
                            payload,
                            request_id=key,
                            correlation_id=correlation_id,
                            **options,
                        )
                        job_id = handle.id
                    await self.cancel(job_id, reason="the caller stopped waiting")
            raise
        return result_of(job)

    # One job.

    def job(self, job_id: str) -> JobHandle:
        """Return a handle of an existing job, without calling a gateway."""
        return JobHandle(self, job_id)

    async def get(self, job_id: str, *, full: bool = True) -> Job:
        """Return a job; with `full=False`, without payload, result and stack trace."""
        request = job_service_pb2.GetJobRequest(
            job_id=job_id, view=_view(full=full), data_encoding=JSON
        )
        response = await self._calls.unary(lambda gateway: gateway.jobs.GetJob, request)
        return from_job(response.job)

    async def cancel(self, job_id: str, *, reason: str = "") -> Job:
        """Cancel a job: a waiting job at once, a running job through its worker.

        Cancelling a job twice has no further effect.

        Args:
            job_id: the id of the job.
            reason: recorded in the event of the job; at most 500 characters.

        Returns:
            The job: CANCELLED, or RUNNING with `cancel_request_time`.
        """
        request = job_service_pb2.CancelJobRequest(job_id=job_id, reason=reason)
        response = await self._calls.unary(lambda gateway: gateway.jobs.CancelJob, request)
        return from_job(response.job)

    async def retry(self, job_id: str, *, reason: str = "") -> Job:
        """Requeue a FAILED or CANCELLED job, with a new retry budget.

        Args:
            job_id: the id of the job.
            reason: recorded in the event of the job; at most 500 characters.
        """
        request = job_service_pb2.RetryJobRequest(job_id=job_id, reason=reason)
        response = await self._calls.unary(lambda gateway: gateway.jobs.RetryJob, request)
        return from_job(response.job)

    async def events(self, job_id: str, *, after_seq: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Yield the stored events of a job after number `after_seq`.

        Raises:
            ValueError: `after_seq` is negative.
        """
        _check_after_seq(after_seq)
        request = job_service_pb2.ListJobEventsRequest(
            job_id=job_id, after_seq=after_seq, data_encoding=JSON
        )
        while True:
            page = await self._calls.unary(lambda gateway: gateway.jobs.ListJobEvents, request)
            for event in page.events:
                yield from_event(event)
            if not page.next_after_seq:
                return
            request.after_seq = page.next_after_seq

    async def output(self, job_id: str, *, after_seq: int = 0) -> AsyncGenerator[JobOutput, None]:
        """Yield the stored output of all attempts of a job, page by page.

        `watch_job` yields new output when it arrives.

        Args:
            job_id: the id of the job.
            after_seq: yield only output with a larger `seq`.

        Raises:
            ValueError: `after_seq` is negative.
        """
        _check_after_seq(after_seq)
        request = job_service_pb2.ListJobOutputRequest(
            job_id=job_id, after_seq=after_seq, data_encoding=JSON
        )
        while True:
            page = await self._calls.unary(lambda gateway: gateway.jobs.ListJobOutput, request)
            for piece in page.pieces:
                yield from_output(piece)
            if not page.next_after_seq:
                return
            request.after_seq = page.next_after_seq

    def watch_job(self, job_id: str, *, after_seq: int = 0, include_job: bool = False) -> JobWatch:
        """Yield past and future events of a job until the terminal event.

        Each event is yielded once and in order. A disconnected stream resumes after
        the last event, at any gateway.

        Args:
            job_id: the id of the job.
            after_seq: the number of the last received event; 0 for all events. Only events with a
                larger number are yielded, even if the job does not have that many events yet.
            include_job: request the ended job, with its result, as `JobWatch.ended_job`.

        Raises:
            ValueError: `after_seq` is negative.
        """
        _check_after_seq(after_seq)

        def start(gateway: Gateway, headers: Metadata, seq: int) -> UnaryStreamCall[Any, Any]:
            # Request the last event again, so the gateway responds at once. Without this response,
            # a quiet job would look the same as a stuck gateway.
            return gateway.jobs.WatchJob(
                job_service_pb2.WatchJobRequest(
                    job_id=job_id,
                    after_seq=max(0, seq - 1),
                    data_encoding=JSON,
                    include_job=include_job,
                ),
                metadata=headers,
            )

        return JobWatch(self._calls, start=start, after_seq=after_seq, job_id=job_id)

    async def logs(
        self, job_id: str, *, after_position: int = 0
    ) -> AsyncGenerator[JobLogLine, None]:
        """Yield the stored log lines of all attempts of a job, page by page.

        `watch_logs` also yields new lines when they arrive.

        Args:
            job_id: the id of the job.
            after_position: yield only lines with a larger `position`.

        Raises:
            ValueError: `after_position` is negative.
        """
        _check_after_position(after_position)
        request = job_service_pb2.ListJobLogsRequest(
            job_id=job_id, after_position=after_position, data_encoding=JSON
        )
        while True:
            page = await self._calls.unary(lambda gateway: gateway.jobs.ListJobLogs, request)
            for line in page.lines:
                yield from_log_line(line)
            if not page.next_after_position:
                return
            request.after_position = page.next_after_position

    def watch_logs(self, job_id: str, *, after_position: int = 0) -> LogWatch:
        """Yield past and future log lines of a job until the job ends.

        Args:
            job_id: the id of the job.
            after_position: the position of the last received line; 0 for all lines.

        Raises:
            ValueError: `after_position` is negative.
        """
        _check_after_position(after_position)
        return LogWatch(self._calls, job_id=job_id, after_position=after_position)

    # Many jobs.

    async def list(
        self,
        filter: str = "",  # noqa: A002
        *,
        page_size: int = 0,
        full: bool = False,
    ) -> AsyncGenerator[Job, None]:
        """Yield all matching jobs, newest first, page by page.

        Args:
            filter: a subset of AIP-160, such as `state = FAILED AND labels.team = "ml"`; see
                `ListJobsRequest` in the proto. Empty: all jobs.
            page_size: maximum number of jobs on a page; 0 for the server default.
            full: include payloads and results.
        """
        request = job_service_pb2.ListJobsRequest(
            filter=filter, page_size=page_size, view=_view(full=full), data_encoding=JSON
        )
        while True:
            page = await self._calls.unary(lambda gateway: gateway.jobs.ListJobs, request)
            for job in page.jobs:
                yield from_job(job)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(
        self,
        *,
        queues: Iterable[str] = (),
        types: Iterable[str] = (),
        states: Iterable[JobState | str] = (),
        labels: Mapping[str, str] | None = None,
        batch_id: str = "",
        job_ids: Iterable[str] = (),
        cursor: str = "",
    ) -> Watch:
        """Follow all jobs that match every argument, on one stream.

        Args:
            queues: match these queues.
            types: match these job types.
            states: match events that lead to these states.
            labels: require all these labels.
            batch_id: match this batch.
            job_ids: match these jobs, at most 10,000.
            cursor: resume after this `Watch.cursor`. Empty: start now.

        Raises:
            ValueError: `states` contains a value that is not a job state.
        """
        job_filter = to_filter(
            queues=queues,
            types=types,
            states=states,
            labels=labels,
            batch_id=batch_id,
            job_ids=job_ids,
        )
        return Watch(self._calls, job_filter=job_filter, cursor=cursor)

    # The platform.

    async def stats(self) -> Stats:
        """Return the number of jobs by state, queue and type."""
        request = job_service_pb2.GetStatsRequest()
        return from_stats(await self._calls.unary(lambda gateway: gateway.jobs.GetStats, request))

    async def handlers(self) -> tuple[HandlerInfo, ...]:
        """Return the handlers of all live workers, in type order."""
        request = handler_service_pb2.ListHandlersRequest(data_encoding=JSON)
        found: list[HandlerInfo] = []
        while True:
            page = await self._calls.unary(lambda gateway: gateway.handlers.ListHandlers, request)
            found += map(from_handler, page.handlers)
            if not page.next_page_token:
                return tuple(found)
            request.page_token = page.next_page_token

    async def ping(self) -> timedelta:
        """Check the health of the gateway (grpc.health.v1), and return the duration of the call.

        Raises:
            Unavailable: the gateway is not serving, for example because its database is down.
        """
        start = time.monotonic()
        response = await self._calls.unary(lambda gateway: gateway.health, health_request(""))
        if response.status != _SERVING:
            raise Unavailable(Refusal(code="UNAVAILABLE", message="the gateway is not serving"))
        return timedelta(seconds=time.monotonic() - start)

    async def queue_serving(self, queue: str) -> bool:
        """Return whether a live worker serves a queue (grpc.health.v1, `queue/NAME`)."""
        request = health_request(f"queue/{queue}")
        try:
            response = await self._calls.unary(lambda gateway: gateway.health, request)
        except CallError as error:
            if error.refusal.code != "NOT_FOUND":
                raise
            return False
        return bool(response.status == _SERVING)


def _submit_metadata(correlation_id: str | None) -> Metadata:
    """Return the headers of a submit: the correlation id, and the current trace context.

    Raises:
        ValueError: metadata cannot contain the id, or the gateway would replace it.
    """
    if correlation_id is None:
        return trace_headers()
    printable = correlation_id.isascii() and correlation_id.isprintable()
    if not (printable and 0 < len(correlation_id) <= _MAX_CORRELATION_ID):
        raise ValueError(
            f"correlation_id is {correlation_id[:_MAX_CORRELATION_ID]!r}; use 1 to "
            f"{_MAX_CORRELATION_ID} printable ASCII characters"
        )
    return ((CORRELATION_ID, correlation_id), *trace_headers())


def _check_after_position(after_position: int) -> None:
    if not 0 <= after_position <= _MAX_SEQ:
        raise ValueError(f"after_position is {after_position}; it must be 0 to {_MAX_SEQ:,}")


def _check_after_seq(after_seq: int) -> None:
    if not 0 <= after_seq <= _MAX_SEQ:
        raise ValueError(f"after_seq is {after_seq}; it must be 0 to {_MAX_SEQ:,}")


def _view(*, full: bool) -> job_pb2.JobView.ValueType:
    return job_pb2.JOB_VIEW_FULL if full else job_pb2.JOB_VIEW_BASIC

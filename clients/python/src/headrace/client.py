"""The asynchronous client."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from math import inf
from types import TracebackType
from typing import Any, Final, Self, Unpack

from grpc.aio import UnaryStreamCall

from headrace import _process
from headrace._batches import MAX_BATCH, batches
from headrace._calls import Calls, Metadata
from headrace._convert import (
    JSON,
    from_event,
    from_handler,
    from_job,
    from_outcome,
    from_output,
    from_stats,
    to_filter,
    to_spec,
    write_spec,
)
from headrace._gateways import Gateway, Gateways, health_request, parse_targets
from headrace._subscriptions import SubscriptionCalls
from headrace._timing import DEFAULT, Timing, check_seconds
from headrace.errors import CallError, Refusal, Unavailable
from headrace.event import JobEvent
from headrace.handle import Batch, JobHandle
from headrace.job import Job, JobOptions, JobOutput, JobSpec, JobState
from headrace.stats import HandlerInfo, Stats
from headrace.v1 import handler_service_pb2, job_pb2, job_service_pb2
from headrace.watch import JobWatch, Watch

# Of grpc.health.v1.HealthCheckResponse.ServingStatus.
_SERVING: Final = 1
# Of an int64.
_MAX_SEQ: Final = 2**63 - 1
# In characters; the gateway replaces a longer one.
_MAX_CORRELATION_ID: Final = 128


class Client(SubscriptionCalls):
    """Submits jobs and follows them.

    Every call is tried again while no gateway is available, submits too, since they always carry a
    `request_id`; streams are resumed where they were cut. A client belongs to one event loop.

        async with Client() as client:
            job = await client.submit("square_sum", {"data": [1, 2, 3]})
            async for event in job.watch():
                print(event.state)
            print(await job.result())

    Args:
        target: `host:port` of a gateway, or several of them, in a list or separated by commas: the
            first one that can be reached is used, and the next one when it fails. None: what
            HEADRACE_TARGET says, else 127.0.0.1:50051.
        timeout: the deadline of a unary call with all its retries, in seconds.
        retries: how often a unary call is tried again while no gateway is available.
        resume_timeout: how long a stream that was cut is tried again, in seconds.

    Raises:
        ValueError: an argument is out of its range.
        MonkeyPatched: gevent or eventlet has replaced threads, sockets or select in this process.

    Every call raises a `CallError` when it is refused or does not come through.
    """

    def __init__(
        self,
        target: str | Sequence[str] | None = None,
        *,
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
        self._gateways = Gateways(parse_targets(target))
        self._calls = Calls(
            gateways=self._gateways,
            timeout=timeout,
            retries=retries,
            resume_timeout=resume_timeout,
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
        """Closes the connections; what still runs on them is cancelled."""
        await self._gateways.close()

    # Submitting.

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
        """Persists a job. When this returns, the job is safe.

        Args:
            job_type: names the handler.
            payload: the handler's argument, anything that JSON can say. None: an empty object.
            request_id: the idempotency key, 1 to 128 characters. The same key with the same content
                returns the same job. None: a fresh one.
            validate_only: only say what would happen, in the handle's `outcome`.
            use_call_deadline: what is left of this call's deadline when it arrives becomes the
                job's: whoever would not wait any longer wants no result any more.
            call_timeout: the deadline of this call with all its retries, in seconds. None: that of
                the client.
            correlation_id: goes with the job to every log line about it, and to its handler; 1 to
                128 printable ASCII characters. None: the gateway makes one.
            options: queue, priority, labels, delay or schedule_time, timeout, deadline, retry; see
                `JobSpec`.
        """
        request = job_service_pb2.SubmitJobRequest(
            job=to_spec(JobSpec(job_type, payload, **options)),
            request_id=request_id or _fresh_key(),
            validate_only=validate_only,
            use_call_deadline=use_call_deadline,
            data_encoding=JSON,
        )
        response = await self._calls.unary(
            lambda gateway: gateway.jobs.SubmitJob,
            request,
            timeout=call_timeout,
            metadata=_correlated(correlation_id),
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
        """Persists 1 to 1,000 jobs, all or nothing.

        Args:
            jobs: the jobs. For more of them see `submit_in_batches`.
            request_id: the idempotency key of the whole batch. None: a fresh one.
            validate_only: only say what would happen, in the batch's `outcome`.
            use_call_deadline, call_timeout, correlation_id: as for `submit`, for each job.

        Raises:
            ValueError: there are none, or more than 1,000.
        """
        request = job_service_pb2.BatchSubmitJobsRequest(
            validate_only=validate_only, use_call_deadline=use_call_deadline
        )
        for spec in jobs:
            write_spec(spec, request.jobs.add())
        if not 1 <= len(request.jobs) <= MAX_BATCH:
            raise ValueError(
                f"a batch has 1 to {MAX_BATCH} jobs, and these are {len(request.jobs)}; "
                "submit_in_batches takes any number"
            )
        return await self._submit_batch(
            request,
            request_id or _fresh_key(),
            timeout=call_timeout,
            metadata=_correlated(correlation_id),
        )

    async def submit_in_batches(
        self,
        jobs: Iterable[JobSpec] | AsyncIterable[JobSpec],
        *,
        size: int = MAX_BATCH,
        in_flight: int = 1,
        request_id: str | None = None,
        correlation_id: str | None = None,
    ) -> AsyncGenerator[Batch, None]:
        """Persists any number of jobs in batches, each all or nothing, and yields each batch.

        Jobs are taken from `jobs` as they are submitted, so it may be endless. A batch is cut short
        before it would be too large for a request.

        Args:
            jobs: the jobs.
            size: the most jobs in a batch; 1 to 1,000.
            in_flight: how many batches are on their way at once. With one, a batch is submitted
                when the one before it was taken from here. With some, client, gateway and database
                work at the same time, and whoever stops early has submitted as many more.
            request_id: an idempotency key for all of it: repeated with the same jobs and size, it
                submits only what is missing. At most 100 characters. None: a fresh one.
            correlation_id: as for `submit`, for all jobs.

        Raises:
            ValueError: `size` or `in_flight` is out of its range.
        """
        if in_flight < 1:
            raise ValueError("in_flight must be at least 1")
        key = request_id or _fresh_key()
        metadata = _correlated(correlation_id)
        calls: deque[asyncio.Task[Batch]] = deque()
        number = 0
        try:
            async with aclosing(batches(jobs, size)) as requests:
                async for request in requests:
                    number += 1
                    call = self._submit_batch(request, f"{key}/{number}", metadata=metadata)
                    calls.append(asyncio.create_task(call))
                    # It is on its way before the next one is put together.
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
        timeout: float | None = None,  # noqa: ASYNC109 - it goes to the server
        metadata: Metadata | None = None,
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
        correlation_id: str | None = None,
        **options: Unpack[JobOptions],
    ) -> JobWatch:
        """Persists a job and yields its events, in one call; ends after the terminal event.

        The call is made with the first wait for an event.

        Args:
            job_type: names the handler.
            payload: the handler's argument.
            request_id: the idempotency key; with that of an earlier call it re-attaches to that
                job. None: a fresh one.
            after_seq: the number of the last event seen, when re-attaching.
            correlation_id, options: as for `submit`.
        """
        _check_after_seq(after_seq)
        spec = to_spec(JobSpec(job_type, payload, **options))
        key = request_id or _fresh_key()
        metadata = _correlated(correlation_id)

        def start(gateway: Gateway, seq: int) -> UnaryStreamCall[Any, Any]:
            return gateway.jobs.SubmitAndWatch(
                job_service_pb2.SubmitAndWatchRequest(
                    job=spec, request_id=key, after_seq=seq, data_encoding=JSON
                ),
                metadata=metadata,
            )

        return JobWatch(self._calls, start=start, after_seq=after_seq)

    # One job.

    def job(self, job_id: str) -> JobHandle:
        """A handle of an existing job; calls nobody."""
        return JobHandle(self, job_id)

    async def get(self, job_id: str, *, full: bool = True) -> Job:
        """The job as it is now; without payload, result and stack trace unless `full`."""
        request = job_service_pb2.GetJobRequest(
            job_id=job_id, view=_view(full=full), data_encoding=JSON
        )
        response = await self._calls.unary(lambda gateway: gateway.jobs.GetJob, request)
        return from_job(response.job)

    async def cancel(self, job_id: str) -> Job:
        """Cancels a job: at once when it waits, and when it runs its worker is told.

        Returns the job: CANCELLED, or RUNNING with `cancel_request_time`. Asking again changes
        nothing.
        """
        request = job_service_pb2.CancelJobRequest(job_id=job_id)
        response = await self._calls.unary(lambda gateway: gateway.jobs.CancelJob, request)
        return from_job(response.job)

    async def retry(self, job_id: str) -> Job:
        """Requeues a job that ended as FAILED or CANCELLED, with a fresh retry budget."""
        request = job_service_pb2.RetryJobRequest(job_id=job_id)
        response = await self._calls.unary(lambda gateway: gateway.jobs.RetryJob, request)
        return from_job(response.job)

    async def events(self, job_id: str, *, after_seq: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Yields the events that a job has had so far, after number `after_seq`.

        Beyond the newest event there are none.

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
        """Yields what the handler of a job has emitted so far, over all attempts.

        It is read page by page, so a job may have any amount of it. `watch_job` has new output as
        it comes.

        Args:
            job_id: the job.
            after_seq: only pieces whose `seq` is larger.

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

    def watch_job(self, job_id: str, *, after_seq: int = 0) -> JobWatch:
        """Yields a job's events: the history, then each as it happens; ends after the terminal one.

        Each event comes once and in order. When the connection is cut the stream goes on from the
        last event, at any gateway.

        Args:
            job_id: the job.
            after_seq: the number of the last event seen; 0 for the whole history. Only events with
                a larger number are yielded, also when there are not as many yet.

        Raises:
            ValueError: `after_seq` is negative.
        """
        _check_after_seq(after_seq)

        def start(gateway: Gateway, seq: int) -> UnaryStreamCall[Any, Any]:
            # The last event comes again, at once, as the sign that the stream is there. Without it
            # a job that is quiet could not be told from a gateway that is stuck.
            return gateway.jobs.WatchJob(
                job_service_pb2.WatchJobRequest(
                    job_id=job_id, after_seq=max(0, seq - 1), data_encoding=JSON
                )
            )

        return JobWatch(self._calls, start=start, after_seq=after_seq)

    # Many jobs.

    async def list(
        self,
        filter: str = "",  # noqa: A002
        *,
        page_size: int = 0,
        full: bool = False,
    ) -> AsyncGenerator[Job, None]:
        """Yields all jobs that match, the newest first, page by page.

        Args:
            filter: a subset of AIP-160, such as `state = FAILED AND labels.team = "ml"`; all of it
                is told in the proto, at `ListJobsRequest`. Empty: all jobs.
            page_size: how many jobs are asked for at a time; 0 is the server's default.
            full: with payloads and results.
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
        """Follows all jobs that match every argument that is given, on one stream.

        Args:
            queues: any of these queues.
            types: any of these types.
            states: events that lead to any of these states.
            labels: all of these labels.
            batch_id: this batch.
            job_ids: any of these jobs; at most 10,000.
            cursor: where to resume, a `Watch.cursor`. Empty: from now.

        Raises:
            ValueError: one of `states` is no state.
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
        """Counts the jobs by state, queue and type."""
        request = job_service_pb2.GetStatsRequest()
        return from_stats(await self._calls.unary(lambda gateway: gateway.jobs.GetStats, request))

    async def handlers(self) -> tuple[HandlerInfo, ...]:
        """The types of jobs that live workers can run now, in the order of their names."""
        request = handler_service_pb2.ListHandlersRequest(data_encoding=JSON)
        found: list[HandlerInfo] = []
        while True:
            page = await self._calls.unary(lambda gateway: gateway.handlers.ListHandlers, request)
            found += map(from_handler, page.handlers)
            if not page.next_page_token:
                return tuple(found)
            request.page_token = page.next_page_token

    async def ping(self) -> timedelta:
        """Asks a gateway whether it serves (grpc.health.v1), and returns how long that took.

        Raises:
            Unavailable: it does not serve, for instance since its database is gone.
        """
        begin = time.monotonic()
        response = await self._calls.unary(lambda gateway: gateway.health, health_request(""))
        if response.status != _SERVING:
            raise Unavailable(Refusal(code="UNAVAILABLE", message="the gateway does not serve now"))
        return timedelta(seconds=time.monotonic() - begin)

    async def queue_serving(self, queue: str) -> bool:
        """Whether a live worker takes jobs from a queue now (grpc.health.v1, `queue/NAME`)."""
        request = health_request(f"queue/{queue}")
        try:
            response = await self._calls.unary(lambda gateway: gateway.health, request)
        except CallError as error:
            if error.refusal.code != "NOT_FOUND":
                raise
            return False
        return bool(response.status == _SERVING)


def _correlated(correlation_id: str | None) -> Metadata | None:
    """The metadata of a call that submits.

    Raises:
        ValueError: metadata cannot have such an id, or the gateway would replace it.
    """
    if correlation_id is None:
        return None
    printable = correlation_id.isascii() and correlation_id.isprintable()
    if not (printable and 0 < len(correlation_id) <= _MAX_CORRELATION_ID):
        raise ValueError(
            f"correlation_id is {correlation_id[:_MAX_CORRELATION_ID]!r}; use 1 to "
            f"{_MAX_CORRELATION_ID} printable ASCII characters"
        )
    return (("x-request-id", correlation_id),)


def _check_after_seq(after_seq: int) -> None:
    if not 0 <= after_seq <= _MAX_SEQ:
        raise ValueError(f"after_seq is {after_seq}; it must be 0 to {_MAX_SEQ:,}")


def _fresh_key() -> str:
    """An idempotency key that nobody has had."""
    return os.urandom(16).hex()


def _view(*, full: bool) -> job_pb2.JobView.ValueType:
    return job_pb2.JOB_VIEW_FULL if full else job_pb2.JOB_VIEW_BASIC

"""A real gRPC server in this process; its services follow the contract, in memory."""

# ruff: noqa: N802 - service methods are named after their calls

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from uuid import uuid4

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from headrace.v1 import event_pb2, handler_service_pb2, job_pb2, job_service_pb2
from headrace.v1.data_pb2 import Data
from headrace.v1.handler_service_pb2_grpc import (
    HandlerServiceServicer,
    add_HandlerServiceServicer_to_server,
)
from headrace.v1.job_service_pb2_grpc import JobServiceServicer, add_JobServiceServicer_to_server
from headrace.v1.subscription_service_pb2_grpc import add_SubscriptionServiceServicer_to_server
from support.fake_subscriptions import FakeSubscriptions
from support.refusals import abort
from support.warm_cli import warm_cli

TERMINAL = {
    job_pb2.JOB_STATE_SUCCEEDED,
    job_pb2.JOB_STATE_FAILED,
    job_pb2.JOB_STATE_CANCELLED,
}
Event = event_pb2.JobEvent


class EndedWithOkError(Exception):
    """A stream ends with status OK."""


@dataclass
class Seen:
    """A call that reached the server."""

    method: str
    request: object
    seconds_left: float


class Platform(JobServiceServicer, HandlerServiceServicer):
    """Jobs in memory. The type of a job selects its course:

    - `square_sum` succeeds at once;
    - `fails` fails at once;
    - any other type starts and waits for `finish`.
    """

    def __init__(self):
        self.jobs = {}
        self.events = {}
        self.log = []
        self.by_request_id = {}
        self.seen = []
        self.unavailable = 0
        self.retry_ms = None
        self.silent = False
        # True if a cancelled job continues to run.
        self.keeps_running = False
        # The status and the reason with which every call is refused.
        self.refuse = None
        # True while streams over many jobs read the past.
        self.reading = False
        self.deadline_exceeded = False
        self.cuts = 0
        self.ending = None
        # True if streams over many jobs are cut after their caught-up mark.
        self.cut_at_mark = False
        self.watchers = Counter()
        self.left = Counter()
        self.subscriptions = FakeSubscriptions(self)
        self.changed = asyncio.Event()

    # Controls of the tests.

    def methods(self):
        return [call.method for call in self.seen]

    def last(self, method):
        return next(call.request for call in reversed(self.seen) if call.method == method)

    def cut(self):
        """End every stream like a gateway that shuts down."""
        self.end(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", retry=0)

    def slow(self):
        """End every stream like a gateway whose client does not read."""
        self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER")

    def end(self, code, reason=None, *, retry=None):
        """End every stream with a status (None: OK); without a reason, like a proxy."""
        self.cuts += 1
        self.ending = code, reason, retry
        self.wake()

    def ends(self, context):
        """Return a check that ends a stream if `end` was called since now."""
        cuts = self.cuts

        async def check():
            if self.cuts > cuts:
                await self.end_now(context)

        return check

    async def end_now(self, context):
        code, reason, retry = self.ending
        if code is None:
            raise EndedWithOkError
        if reason is None:
            await context.abort(code, "ended by a proxy")
        await abort(context, code, "the stream ends", reason, retry=retry)

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                await self.changed.wait()

    def finish(self, job_id, *, result=None):
        job = self.jobs[job_id]
        job.result.json = json.dumps(result).encode()
        self.add(job, "SUCCEEDED", "SUCCEEDED")

    def add(self, job, kind, state, **detail):
        job.seq += 1
        job.state = job_pb2.JobState.Value(f"JOB_STATE_{state}")
        event = Event(
            job_id=job.id,
            seq=job.seq,
            type=event_pb2.JobEventType.Value(f"JOB_EVENT_TYPE_{kind}"),
            state=job.state,
            attempt=job.attempt,
            job_type=job.type,
            queue=job.queue,
            **detail,
        )
        event.event_time.GetCurrentTime()
        job.update_time.CopyFrom(event.event_time)
        if job.state in TERMINAL:
            job.end_time.CopyFrom(event.event_time)
        self.events[job.id].append(event)
        self.log.append(event)
        self.wake()

    def wake(self):
        self.changed.set()
        self.changed = asyncio.Event()

    # The implementation.

    async def arrive(self, method, request, context):
        self.seen.append(Seen(method, request, context.time_remaining() or 0.0))
        self.wake()
        if method.startswith("Watch") or method == "SubmitAndWatch":
            await self.accept(context)
        if self.unavailable > 0:
            self.unavailable -= 1
            await abort(
                context,
                grpc.StatusCode.UNAVAILABLE,
                "postgresql is not available; try again",
                "UNAVAILABLE",
                metadata={"dependency": "postgresql"},
                retry=self.retry_ms,
            )
        if self.refuse is not None:
            await abort(context, self.refuse[0], "refused", self.refuse[1])
        while self.silent:
            await self.changed.wait()
            if self.deadline_exceeded:
                await abort(
                    context,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    "the call took too long",
                    "DEADLINE_EXCEEDED",
                )

    async def accept(self, context):
        """Accept a stream by its initial metadata, before its first response."""
        while self.silent:
            await self.changed.wait()
        await context.send_initial_metadata((("x-request-id", "1"),))

    async def find(self, job_id, context):
        if job_id not in self.jobs:
            await abort(
                context,
                grpc.StatusCode.NOT_FOUND,
                f"job {job_id} does not exist",
                "JOB_NOT_FOUND",
                metadata={"job_id": job_id},
            )
        return self.jobs[job_id]

    async def submit(self, spec, request_id, context, batch_id=""):
        if spec.type.startswith("bad "):
            await abort(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "the request is not valid",
                "INVALID_ARGUMENT",
                violations=[("job.type", "must be a name"), ("job.priority", "must be small")],
            )
        content = spec.SerializeToString(deterministic=True)
        if request_id in self.by_request_id:
            old_content, job = self.by_request_id[request_id]
            if old_content != content:
                await abort(
                    context,
                    grpc.StatusCode.ALREADY_EXISTS,
                    f"request_id {request_id!r} was used for job {job.id} with another content",
                    "REQUEST_ID_CONFLICT",
                    metadata={"request_id": request_id, "job_id": job.id},
                )
            return job, job_service_pb2.SUBMIT_OUTCOME_EXISTING
        job = job_pb2.Job(
            id=str(uuid4()),
            tenant="default",
            type=spec.type,
            queue=spec.queue or "default",
            payload=spec.payload,
            priority=spec.priority,
            labels=spec.labels,
            request_id=request_id,
            batch_id=batch_id,
            correlation_id=dict(context.invocation_metadata()).get("x-request-id", ""),
        )
        if spec.HasField("timeout"):
            job.timeout.CopyFrom(spec.timeout)
        job.retry_policy.CopyFrom(spec.retry_policy)
        job.create_time.GetCurrentTime()
        self.jobs[job.id] = job
        self.events[job.id] = []
        self.by_request_id[request_id] = content, job
        if spec.HasField("schedule_time"):
            job.schedule_time.CopyFrom(spec.schedule_time)
            self.add(job, "SUBMITTED", "SCHEDULED", schedule_time=spec.schedule_time)
            return job, job_service_pb2.SUBMIT_OUTCOME_CREATED
        self.add(job, "SUBMITTED", "QUEUED")
        job.attempt = 1
        self.add(job, "STARTED", "RUNNING", worker_id="w1")
        if spec.type == "square_sum":
            numbers = json.loads(spec.payload.json)["data"]
            job.progress.fraction = 0.5
            job.progress.message = "adding"
            job.progress.counters.json = b'{"added": 2}'
            self.add(job, "PROGRESSED", "RUNNING", progress=job.progress)
            self.add(job, "OUTPUT", "RUNNING", output=Data(json=b'"half"'))
            job.result.json = json.dumps(sum(n * n for n in numbers)).encode()
            self.add(job, "SUCCEEDED", "SUCCEEDED")
        elif spec.type == "fails":
            job.error.type = "ValueError"
            job.error.message = "no good"
            self.add(job, "FAILED", "FAILED", error=job.error)
            job.error.stack_trace = 'Traceback:\n  File "a.py", line 1, in \x1b[2Jf'
        return job, job_service_pb2.SUBMIT_OUTCOME_CREATED

    async def follow(self, job, after_seq, context):
        """Yield lists of events of a job until the terminal one."""
        ends = self.ends(context)
        self.watchers[job.id] += 1
        self.wake()
        try:
            while True:
                changed = self.changed
                events = self.events[job.id][after_seq:]
                if events:
                    after_seq = events[-1].seq
                    yield events
                if job.state in TERMINAL and after_seq >= job.seq:
                    return
                await changed.wait()
                await ends()
        finally:
            self.left[job.id] += 1
            self.wake()

    # The services.

    async def SubmitJob(self, request, context):
        await self.arrive("SubmitJob", request, context)
        if request.validate_only:
            outcome = (
                job_service_pb2.SUBMIT_OUTCOME_WOULD_RUN
                if request.job.type == "square_sum"
                else job_service_pb2.SUBMIT_OUTCOME_NO_WORKER
            )
            job = job_pb2.Job(type=request.job.type)
            return job_service_pb2.SubmitJobResponse(job=job, outcome=outcome)
        # The response of a submit contains the job as stored, before it ran.
        job, outcome = await self.submit(request.job, request.request_id, context)
        return job_service_pb2.SubmitJobResponse(job=submitted(job), outcome=outcome)

    async def BatchSubmitJobs(self, request, context):
        await self.arrive("BatchSubmitJobs", request, context)
        batch_id = str(uuid4())
        jobs = [
            (await self.submit(spec, f"{request.request_id}:{i}", context, batch_id))[0]
            for i, spec in enumerate(request.jobs)
        ]
        return job_service_pb2.BatchSubmitJobsResponse(
            jobs=[submitted(job) for job in jobs],
            batch_id=jobs[0].batch_id,
            outcome=job_service_pb2.SUBMIT_OUTCOME_CREATED,
        )

    async def GetJob(self, request, context):
        await self.arrive("GetJob", request, context)
        job = await self.find(request.job_id, context)
        if request.view == job_pb2.JOB_VIEW_BASIC:
            job = basic(job)
        return job_service_pb2.GetJobResponse(job=job)

    async def ListJobs(self, request, context):
        await self.arrive("ListJobs", request, context)
        jobs = [basic(job) for job in reversed(self.jobs.values())]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 100)
        return job_service_pb2.ListJobsResponse(
            jobs=jobs[start:end], next_page_token=str(end) if end < len(jobs) else ""
        )

    async def CancelJob(self, request, context):
        await self.arrive("CancelJob", request, context)
        job = await self.find(request.job_id, context)
        if job.state in TERMINAL:
            await self.conflict(job, "RUNNING, QUEUED", context)
        if self.keeps_running:
            job.cancel_request_time.GetCurrentTime()
            self.add(job, "CANCEL_REQUESTED", "RUNNING")
            return job_service_pb2.CancelJobResponse(job=basic(job))
        self.add(job, "CANCELLED", "CANCELLED")
        return job_service_pb2.CancelJobResponse(job=basic(job))

    async def RetryJob(self, request, context):
        await self.arrive("RetryJob", request, context)
        job = await self.find(request.job_id, context)
        if job.state not in TERMINAL or job.state == job_pb2.JOB_STATE_SUCCEEDED:
            await self.conflict(job, "FAILED, CANCELLED", context)
        self.add(job, "REQUEUED", "QUEUED")
        return job_service_pb2.RetryJobResponse(job=basic(job))

    async def conflict(self, job, allowed, context):
        state = job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")
        await abort(
            context,
            grpc.StatusCode.FAILED_PRECONDITION,
            f"job {job.id} is {state}",
            "STATE_CONFLICT",
            metadata={"job_id": job.id, "state": state, "allowed": allowed},
        )

    async def ListJobEvents(self, request, context):
        await self.arrive("ListJobEvents", request, context)
        job = await self.find(request.job_id, context)
        rest = self.events[job.id][request.after_seq :]
        page = rest[:2]
        return job_service_pb2.ListJobEventsResponse(
            events=page, next_after_seq=page[-1].seq if len(rest) > len(page) else 0
        )

    async def ListJobOutput(self, request, context):
        await self.arrive("ListJobOutput", request, context)
        job = await self.find(request.job_id, context)
        rest = [e for e in self.events[job.id][request.after_seq :] if e.HasField("output")]
        # One piece per page, so that every reader needs several pages.
        pieces = [
            job_service_pb2.JobOutput(
                seq=e.seq, attempt=e.attempt, output_time=e.event_time, output=e.output
            )
            for e in rest[:1]
        ]
        return job_service_pb2.ListJobOutputResponse(
            pieces=pieces, next_after_seq=rest[0].seq if len(rest) > 1 else 0
        )

    async def WatchJob(self, request, context):
        await self.arrive("WatchJob", request, context)
        job = await self.find(request.job_id, context)
        async for events in self.follow(job, request.after_seq, context):
            yield job_service_pb2.WatchJobResponse(mark=job_service_pb2.WATCH_MARK_IDLE)
            yield job_service_pb2.WatchJobResponse(events=events)

    async def SubmitAndWatch(self, request, context):
        await self.arrive("SubmitAndWatch", request, context)
        job, _ = await self.submit(request.job, request.request_id, context)
        yield job_service_pb2.SubmitAndWatchResponse(job=basic(job))
        async for events in self.follow(job, request.after_seq, context):
            yield job_service_pb2.SubmitAndWatchResponse(mark=job_service_pb2.WATCH_MARK_IDLE)
            yield job_service_pb2.SubmitAndWatchResponse(events=events)

    async def WatchJobs(self, request, context):
        await self.arrive("WatchJobs", request, context)
        if request.cursor == "expired":
            await abort(
                context,
                grpc.StatusCode.OUT_OF_RANGE,
                "events after this cursor were pruned; continue from oldest_cursor",
                "CURSOR_EXPIRED",
                metadata={"oldest_cursor": "7"},
            )
        self.watchers["*"] += 1
        self.wake()
        try:
            async for response in self.follow_many(request, context):
                yield response
        except EndedWithOkError:
            return
        finally:
            self.left["*"] += 1
            self.wake()

    async def follow_many(self, request, context):
        ends = self.ends(context)
        while self.reading:
            await self.changed.wait()
        # The cursor lags by one event, so a resumed stream repeats the last one.
        position = max(0, int(request.cursor) - 1) if request.cursor else len(self.log)
        mark = job_service_pb2.WATCH_MARK_CAUGHT_UP
        while True:
            changed = self.changed
            events = [e for e in self.log[position:] if self.matches(request.filter, e)]
            position = len(self.log)
            if events or mark:
                yield job_service_pb2.WatchJobsResponse(
                    events=events, cursor=str(position), mark=mark
                )
            mark = job_service_pb2.WATCH_MARK_UNSPECIFIED
            if self.cut_at_mark:
                await abort(context, grpc.StatusCode.UNAVAILABLE, "shuts down", "SHUTTING_DOWN")
            if position == len(self.log):
                await changed.wait()
            await ends()

    def matches(self, job_filter, event):
        labels = self.jobs[event.job_id].labels
        return (
            (not job_filter.queues or event.queue in job_filter.queues)
            and (not job_filter.types or event.job_type in job_filter.types)
            and (not job_filter.states or event.state in job_filter.states)
            and all(labels.get(k) == v for k, v in job_filter.labels.items())
        )

    async def GetStats(self, request, context):
        await self.arrive("GetStats", request, context)
        response = job_service_pb2.GetStatsResponse()
        response.stats_time.GetCurrentTime()
        for state, count in sorted(Counter(job.state for job in self.jobs.values()).items()):
            response.states.add(state=state, jobs=count)
        queue = response.queues.add(queue="default", states=response.states)
        queue.age.FromSeconds(90)
        response.types.add(type="square_sum", states=response.states)
        return response

    async def ListHandlers(self, request, context):
        await self.arrive("ListHandlers", request, context)
        handler = handler_service_pb2.Handler(
            type="square_sum",
            queue="default",
            description="Adds squares.",
            live_workers=2,
        )
        handler.payload_schema.json = b'{"type": "object"}'
        handler.timeout.FromSeconds(30)
        handler.retry_policy.max_attempts = 3
        if not request.page_token:
            return handler_service_pb2.ListHandlersResponse(
                handlers=[handler], next_page_token="square_sum"
            )
        other = handler_service_pb2.Handler(type="zip", queue="default")
        return handler_service_pb2.ListHandlersResponse(handlers=[other])


def basic(job):
    copy = job_pb2.Job()
    copy.CopyFrom(job)
    for field in ("payload", "result"):
        copy.ClearField(field)
    copy.error.ClearField("stack_trace")
    if not job.HasField("error"):
        copy.ClearField("error")
    return copy


def submitted(job):
    copy = basic(job)
    copy.seq = 1
    copy.attempt = 0
    waits = job.HasField("schedule_time")
    copy.state = job_pb2.JOB_STATE_SCHEDULED if waits else job_pb2.JOB_STATE_QUEUED
    for field in ("end_time", "error", "progress"):
        copy.ClearField(field)
    return copy


class Health(health.aio.HealthServicer):
    """A health service that responds only while `answers` is set."""

    def __init__(self):
        super().__init__()
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def Check(self, request, context):
        self.asked += 1
        await self.answers.wait()
        return await super().Check(request, context)


class Server:
    """A server that can be stopped and started again on the same port."""

    def __init__(self, platform):
        self.platform = platform
        self.health = Health()
        self.port = 0
        self._server = None

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    async def start(self):
        self._server = grpc.aio.server()
        add_JobServiceServicer_to_server(self.platform, self._server)
        add_HandlerServiceServicer_to_server(self.platform, self._server)
        add_SubscriptionServiceServicer_to_server(self.platform.subscriptions, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        await self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        self.port = self._server.add_insecure_port(self.target)
        await self._server.start()

    async def stop(self):
        await self._server.stop(None)


@pytest.fixture
async def platform():
    return Platform()


@pytest.fixture
async def server(platform):
    server = Server(platform)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def second(platform):
    """Another gateway of the same platform."""
    server = Server(platform)
    await server.start()
    yield server
    await server.stop()


@dataclass
class Ended:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def jsonl(self):
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session")
def cli(tmp_path_factory):
    """The command that runs the CLI in a separate process."""
    with warm_cli(tmp_path_factory.mktemp("cli")) as command:
        yield command


@pytest.fixture
def start(server, cli):
    """A function that starts the CLI in a separate process."""

    async def start(*args, stdin=None, env=None, **streams):
        return await asyncio.create_subprocess_exec(
            *cli,
            *args,
            env={
                "HEADRACE_TARGET": server.target,
                "PATH": "/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                **(env or {}),
            },
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            **{"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE, **streams},
        )

    return start


@pytest.fixture
def run(start):
    """A function that runs the CLI to its end."""

    async def run(*args, stdin=None):
        process = await start(*args, stdin=stdin)
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin.encode() if stdin is not None else None)
        return Ended(process.returncode, out.decode(), err.decode())

    return run

"""The `headrace.testing` gateway with additional faults, for the client tests."""

import asyncio
import json
from collections import Counter
from contextlib import aclosing
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import timedelta

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from headrace.errors import CallError, Refusal
from headrace.testing import FakeGateway
from headrace.testing._calls import Calls
from headrace.testing._services import HandlerService
from headrace.v1.handler_service_pb2 import Handler
from headrace.v1.handler_service_pb2_grpc import add_HandlerServiceServicer_to_server
from headrace.v1.job_service_pb2 import WATCH_MARK_CAUGHT_UP, WATCH_MARK_IDLE
from headrace.v1.job_service_pb2_grpc import add_JobServiceServicer_to_server
from headrace.v1.subscription_service_pb2_grpc import add_SubscriptionServiceServicer_to_server
from support.warm_cli import warm_cli

# Small pages, so that the client reads several.
PAGE_SIZES = {"ListHandlers": 1, "ListJobEvents": 2, "ListJobOutput": 1}


def rejection_status(
    code, reason=None, *, message="rejected by the test", retry_ms=None, metadata=None
):
    """Return the status of a rejected call; without a reason, it has no details."""
    return Refusal(
        code=code.name,
        reason=reason or "",
        message=message,
        metadata=metadata or {},
        retry_after=None if retry_ms is None else timedelta(milliseconds=retry_ms),
    )


class Faults(Calls):
    """Records the calls to a `Platform`, and injects its faults."""

    def __init__(self, platform):
        super().__init__()
        self._platform = platform

    async def admit(self, call):
        platform = self._platform
        request = call.request
        self.received.append(replace(call, request=deepcopy(request)))
        platform.wake()
        if call.method in PAGE_SIZES and not request.page_size:
            request.page_size = PAGE_SIZES[call.method]
        if call.method == "WatchJobs" and request.cursor:
            # A resumed watch repeats an event.
            request.cursor = str(max(0, int(request.cursor) - 1))
        if platform.unavailable:
            platform.unavailable -= 1
            raise CallError(
                rejection_status(
                    grpc.StatusCode.UNAVAILABLE,
                    "UNAVAILABLE",
                    message="postgresql is not available; try again",
                    retry_ms=platform.retry_ms,
                    metadata={"dependency": "postgresql"},
                )
            )
        if platform.reject_with is not None:
            raise CallError(
                rejection_status(*platform.reject_with, metadata=platform.reject_metadata)
            )
        while platform.silent:
            await platform.changed.wait()
            if platform.deadline_exceeded:
                raise CallError(
                    rejection_status(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
                )

    async def responses(self, call, stream):
        platform = self._platform
        async with (
            aclosing(self._counted(call, stream)) as counted,
            aclosing(super().responses(call, counted)) as responses,
        ):
            async for response in responses:
                while response.events and platform.remaining_messages == 0:
                    await platform.changed.wait()
                if response.events and platform.remaining_messages is not None:
                    platform.remaining_messages -= 1
                if response.events and call.method in {"WatchJob", "SubmitAndWatch"}:
                    # The client skips the marks on a job's stream.
                    yield type(response)(mark=WATCH_MARK_IDLE)
                yield response
                if platform.cut_at_mark and response.mark == WATCH_MARK_CAUGHT_UP:
                    raise CallError(rejection_status(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"))

    async def _counted(self, call, stream):
        """Yield the responses of a stream, and count its start and its end."""
        platform = self._platform
        request = call.request
        key = getattr(request, "job_id", "") or getattr(request, "name", "") or "*"
        submits = call.method == "SubmitAndWatch"
        if not submits:
            platform.started_streams[key] += 1
            # The stream reads its position first.
            asyncio.get_running_loop().call_soon(platform.wake)
        try:
            while platform.reading:
                await platform.changed.wait()
            async for response in stream:
                if submits and response.HasField("job"):
                    key = response.job.id
                    platform.started_streams[key] += 1
                    platform.wake()
                yield response
        finally:
            platform.ended_streams[key] += 1
            platform.wake()


class Platform(FakeGateway):
    """A fake gateway. The job type determines what happens to a job:

    - `square_sum` succeeds at once;
    - `fails` fails at once;
    - `queued` stays QUEUED;
    - any other type starts and waits for `finish`.

    Attributes:
        unavailable: the number of calls to reject with UNAVAILABLE.
        retry_ms: the wait in milliseconds that these rejections request.
        silent: whether calls get no response, and streams are not accepted.
        deadline_exceeded: whether silent calls end with DEADLINE_EXCEEDED at the next `wake`.
        keeps_running: whether a cancelled job continues to run.
        reject_with: the status and reason with which every call is rejected; None to reject none.
        reject_metadata: the metadata of that rejection.
        reading: whether new streams wait before their first response, like a gateway that reads
            history.
        cut_at_mark: whether streams are cut after their caught-up mark.
        remaining_messages: the number of messages with events that may still be sent; None means
            any number.
        started_streams: the number of started streams, by job id or subscription name; `*` for
            WatchJobs.
        ended_streams: the number of ended streams, with the same keys.
    """

    def __init__(self):
        super().__init__()
        self._calls = Faults(self)
        # One event for each message, so that each event has its own cursor.
        self._subscriptions.max_events = 1
        for handler in _handlers():
            self._handlers[handler.type] = handler
        self.unavailable = 0
        self.retry_ms = None
        self.silent = False
        self.deadline_exceeded = False
        self.keeps_running = False
        self.reject_with = None
        self.reject_metadata = None
        self.reading = False
        self.cut_at_mark = False
        self.remaining_messages = None
        self.started_streams = Counter()
        self.ended_streams = Counter()

    @property
    def received_calls(self):
        return self._calls.received

    @property
    def jobs(self):
        return self._jobs.by_id

    @property
    def changed(self):
        return self._jobs.changed

    @property
    def subscriptions(self):
        return self._subscriptions

    def events(self, job_id):
        return self._jobs.events(job_id, 0)

    def services(self):
        """Return the services, each with the function that adds it to a server."""
        return [
            (self._job_service, add_JobServiceServicer_to_server),
            (HandlerService(self._handlers), add_HandlerServiceServicer_to_server),
            (self._subscriptions, add_SubscriptionServiceServicer_to_server),
        ]

    def wake(self):
        self._jobs.notify()

    def called_methods(self):
        return [call.method for call in self.received_calls]

    def last_request(self, method):
        return next(call.request for call in reversed(self.received_calls) if call.method == method)

    def acks(self):
        """Return the positions of all received acknowledgments, including rejected ones."""
        cursors = [c.request.cursor for c in self.received_calls if c.method == "AckSubscription"]
        return [int(cursor.partition(":")[2]) for cursor in cursors]

    def cut(self):
        """End every stream like a gateway that shuts down."""
        self.end(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", retry_ms=0)

    def end_as_slow(self):
        """End every stream like a gateway whose client does not read."""
        self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER")

    def end(self, code, reason=None, *, retry_ms=None):
        """End every stream with a status (None: OK); without a reason, it has no details."""
        self._calls.cut(None if code is None else rejection_status(code, reason, retry_ms=retry_ms))

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                await self.changed.wait()

    def finish(self, job_id, *, result=None):
        self.succeed(job_id, result)

    def backdate(self, job_id, age):
        """Move the queue time and the events of a job into the past."""
        for event in self.events(job_id):
            event.event_time.FromDatetime(event.event_time.ToDatetime() - age)
        job = self.jobs[job_id]
        job.queue_time.FromDatetime(job.queue_time.ToDatetime() - age)

    def send_idle_marks(self):
        """Let each later stream send an idle mark after a short time without events."""
        self._job_service.idle = 0.05

    def take_over(self, name, consumer):
        """Let another consumer take over, as after a lapsed lease."""
        self._subscriptions._acquire(self._subscriptions.by_name[name], consumer, object())

    def release(self, name):
        """Remove the receiver of a subscription."""
        self._subscriptions.by_name[name].watch = None
        self.wake()

    def _on_queued(self, job):
        if job.type == "queued":
            return
        first = not job.attempt
        self.start(job.id)
        if first and job.type == "square_sum":
            numbers = json.loads(job.payload.json)["data"]
            self.progress(job.id, 0.5, "adding", counters={"added": 2})
            self.emit(job.id, "half")
            self.succeed(job.id, sum(n * n for n in numbers))
        elif first and job.type == "fails":
            self.fail(job.id, ValueError("no good"))
            job.error.stack_trace = 'Traceback:\n  File "a.py", line 1, in \x1b[2Jf'

    def _on_cancel_request(self, job_id):
        if not self.keeps_running:
            self.end_cancelled(job_id)


def _handlers():
    handler = Handler(
        type="square_sum", queue="default", description="Adds squares.", live_workers=2
    )
    handler.payload_schema.json = b'{"type": "object"}'
    handler.timeout.FromSeconds(30)
    handler.retry_policy.max_attempts = 3
    return [handler, Handler(type="zip", queue="default")]


class Health(health.aio.HealthServicer):
    """A health service that responds only while `responding` is set."""

    def __init__(self):
        super().__init__()
        self.checks = 0
        self.responding = asyncio.Event()
        self.responding.set()

    async def Check(self, request, context):  # noqa: N802  # the name of the RPC
        self.checks += 1
        await self.responding.wait()
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
        self._server = grpc.aio.server(interceptors=[self.platform._calls])
        for service, add in self.platform.services():
            add(service, self._server)
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
async def second_server(platform):
    """Another gateway of the same platform."""
    server = Server(platform)
    await server.start()
    yield server
    await server.stop()


@dataclass
class CommandResult:
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
                # The commands must not read the configuration of the user who runs the tests.
                "XDG_CONFIG_HOME": "/nonexistent",
                **(env or {}),
            },
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            **{"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE, **streams},
        )

    return start


@pytest.fixture
def run(start):
    """A function that runs the CLI to its end."""

    async def run(*args, stdin=None, env=None):
        process = await start(*args, stdin=stdin, env=env)
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin.encode() if stdin is not None else None)
        return CommandResult(process.returncode, out.decode(), err.decode())

    return run

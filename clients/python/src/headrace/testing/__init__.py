"""An in-memory gateway for tests, without PostgreSQL, Redis or workers.

    from headrace import Client
    from headrace.testing import FakeGateway

    async def test_order_is_charged():
        async with FakeGateway() as gateway, Client(gateway.target) as client:
            gateway.handle("charge", lambda payload: payload["amount"] * 2)
            job = await client.submit("charge", {"amount": 21})
            assert await job.result() == 42

A synchronous test uses `with FakeGateway() as gateway` and `SyncClient(gateway.target)`.

Run jobs in one of two ways:

- `gateway.handle(type, function)` runs a function for each job of a type as soon as it is queued.
- Without a function a job stays QUEUED, and the test makes each transition: `start`, `progress`,
  `emit`, then one of `succeed`, `fail`, `interrupt`, `lose`, `end_cancelled`, `expire`. A
  transition that a job's lifecycle does not allow raises `StateConflict`.

Time does not pass: `fail(job_id, error, retry=True)` leaves a job RETRYING, and a job
with a schedule time stays SCHEDULED, until `make_due`.

Inject faults: `gateway.refuse(3)` makes the next three calls fail with UNAVAILABLE, `gateway.cut()`
ends all open streams as a gateway that is shutting down does, and `gateway.prune()` deletes all
past events, so older cursors expire. `gateway.calls` lists all received calls.

The fake accepts every credential, and calls without one. `gateway.allow(…)` makes it accept only
the given tokens and API keys. `gateway.revoke(…)` rejects one and ends its streams.

The fake keeps the guarantees of the contract; the same test suite runs on the fake and on the
platform. The fake differs from the platform in these points:

- Sizes and counts are unlimited, except for 1,000 jobs in a batch. There are no payload schemas.
- Names, priorities, ids and idle intervals are validated; labels, times, timeouts and retry
  policies are not.
- Timeouts, deadlines, retry policies and priorities have no effect.
- ListJobs supports `=`, AND, OR in parentheses, and ranges of ids; other filters are
  UNIMPLEMENTED.
- Documents are always sent as `Data.json`; `data_encoding` has no effect.
- One worker with 100 slots runs all types that have a handler, in all queues.
- Histories contain every event at once, and quantiles are exact.
- There is one tenant. There are no roles, no AccessService and no reflection.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self, TypeVar

import grpc
from grpc import aio

from headrace._blocking import LoopThread
from headrace._messages import message_class
from headrace.errors import Refusal
from headrace.testing._calls import Call, Calls
from headrace.testing._jobs import Jobs, encode, state_of
from headrace.testing._monitor import MonitorService
from headrace.testing._services import HandlerService, JobService
from headrace.testing._subscriptions import SubscriptionService
from headrace.v1.handler_service_pb2 import Handler
from headrace.v1.handler_service_pb2_grpc import add_HandlerServiceServicer_to_server
from headrace.v1.job_pb2 import Job, JobError, JobProgress
from headrace.v1.job_service_pb2_grpc import add_JobServiceServicer_to_server
from headrace.v1.monitor_service_pb2_grpc import add_MonitorServiceServicer_to_server
from headrace.v1.subscription_service_pb2_grpc import add_SubscriptionServiceServicer_to_server

__all__ = ["Call", "FakeGateway"]

T = TypeVar("T")

_SHUTTING_DOWN: Final = Refusal(
    code="UNAVAILABLE", reason="SHUTTING_DOWN", message="this gateway is shutting down"
)


class FakeGateway:
    """An in-memory gateway; see the module.

    Attributes:
        target: the address for a client, while the gateway runs.
    """

    def __init__(self) -> None:
        self.target = ""
        self._functions: dict[str, Callable[[Any], Any]] = {}
        self._handlers: dict[str, Handler] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._calls = Calls()
        self._jobs = Jobs(self._on_queued, self._on_cancel_request)
        self._job_service = JobService(self._jobs, self._handlers)
        self._subscriptions = SubscriptionService(self._jobs, self._job_service.idle_interval)
        self._monitor = MonitorService(self._jobs, self._handlers, self._job_service.idle_interval)
        self._server: aio.Server | None = None
        self._thread: LoopThread | None = None
        self._server_thread = 0

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stop()

    def __enter__(self) -> Self:
        self._thread = LoopThread()
        self._thread.run(self._start())
        return self

    def __exit__(self, *exception: object) -> None:
        if self._thread is not None:
            self._thread.run(self._stop())
            self._thread.close()

    @property
    def calls(self) -> list[Call]:
        """All received calls, in order."""
        return list(self._calls.received)

    def handle(
        self, job_type: str, function: Callable[[Any], Any], *, queue: str = "default"
    ) -> None:
        """Run a function for each job of a type that is queued from now on.

        Args:
            job_type: the type of the jobs.
            function: receives the payload. Its result is the job's result, and an exception fails
                the job. If it is a coroutine function, CancelJob cancels it.
            queue: the queue that ListHandlers reports.
        """
        self._functions[job_type] = function
        self.offer(job_type, queue=queue)

    def offer(self, job_type: str, *, queue: str = "default") -> None:
        """Report a live worker for a type; the test makes the transitions of these jobs."""
        self._handlers[job_type] = Handler(type=job_type, queue=queue, live_workers=1)
        self._run_in_server_thread(self._jobs.notify)

    def start(self, job_id: str) -> None:
        """Start an attempt: QUEUED to RUNNING."""
        self._advance(job_id, "STARTED", "RUNNING")

    def progress(
        self,
        job_id: str,
        fraction: float,
        message: str = "",
        *,
        counters: Mapping[str, float] | None = None,
    ) -> None:
        """Report progress of a running job."""
        progress = JobProgress(fraction=fraction, message=message)
        progress.counters.json = encode(dict(counters or {}))
        self._advance(job_id, "PROGRESSED", "RUNNING", progress=progress)

    def emit(self, job_id: str, output: Any) -> None:
        """Emit a piece of output for a running job."""
        self._advance(job_id, "OUTPUT", "RUNNING", output=encode(output))

    def log(
        self,
        job_id: str,
        message: str,
        *,
        level: str = "INFO",
        logger: str = "",
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Log a line for the newest attempt of a job."""
        content = None if fields is None else encode(dict(fields))
        self._run_in_server_thread(
            lambda: self._jobs.log_line(job_id, message, level=level, logger=logger, fields=content)
        )

    def succeed(self, job_id: str, result: Any = None) -> None:
        """End a running job as SUCCEEDED."""
        self._advance(job_id, "SUCCEEDED", "SUCCEEDED", result=encode(result))

    def fail(self, job_id: str, error: BaseException | str, *, retry: bool = False) -> None:
        """Fail the attempt of a running job.

        Args:
            job_id: the id of the job.
            error: the exception, or the message of a RuntimeError.
            retry: leave the job RETRYING, until `make_due`.
        """
        exception = RuntimeError(error) if isinstance(error, str) else error
        detail = _error(type(exception).__name__, str(exception), retryable=retry)
        if retry:
            due = datetime.now(UTC) + timedelta(seconds=1)
            self._advance(job_id, "RETRY_SCHEDULED", "RETRYING", error=detail, due=due)
        else:
            self._advance(job_id, "FAILED", "FAILED", error=detail)

    def make_due(self, job_id: str) -> None:
        """Move a SCHEDULED or RETRYING job to QUEUED."""
        self._advance(job_id, "DUE", "QUEUED")

    def interrupt(self, job_id: str) -> None:
        """Interrupt a running job, as the shutdown of its worker does: QUEUED again."""
        self._advance(job_id, "INTERRUPTED", "QUEUED")

    def lose(self, job_id: str, *, final: bool = False) -> None:
        """Lose the worker of a running job: QUEUED again, or FAILED if `final`."""
        error = _error("WORKER_LOST", "the worker was lost", retryable=not final)
        self._advance(job_id, "WORKER_LOST", "FAILED" if final else "QUEUED", error=error)

    def end_cancelled(self, job_id: str) -> None:
        """End a running job as CANCELLED, usually after CancelJob."""
        self._advance(job_id, "CANCELLED", "CANCELLED")

    def expire(self, job_id: str) -> None:
        """Let the deadline of a job pass: FAILED."""
        error = _error("DEADLINE_EXCEEDED", "the deadline has passed", retryable=False)
        self._advance(job_id, "EXPIRED", "FAILED", error=error)

    def refuse(self, calls: int = 1) -> None:
        """Make the next `calls` calls fail with UNAVAILABLE."""
        self._calls.unavailable = calls

    def cut(self) -> None:
        """End all open streams, as a gateway that is shutting down does."""
        self._run_in_server_thread(lambda: self._calls.cut(_SHUTTING_DOWN))

    def allow(self, *credentials: str) -> None:
        """From now on, accept only calls with one of these tokens or API keys."""
        self._calls.allowed = frozenset(credentials)

    def revoke(self, credential: str) -> None:
        """Reject a token or an API key, and end its streams with CREDENTIAL_CHANGED."""
        self._run_in_server_thread(lambda: self._calls.revoke(credential))

    def prune(self) -> None:
        """Delete all past events from streams over many jobs, so older cursors expire."""
        self._jobs.pruned = len(self._jobs.log)

    def _advance(self, job_id: str, event: str, state: str, **details: Any) -> None:
        self._run_in_server_thread(lambda: self._jobs.advance(job_id, event, state, **details))

    def _run_in_server_thread(self, work: Callable[[], T]) -> T:
        """Run a function in the server's thread."""
        if self._thread is None or threading.get_ident() == self._server_thread:
            return work()

        async def run() -> T:
            return work()

        return self._thread.run(run())

    def _on_queued(self, job: Job) -> None:
        """Run the function of a queued job, if there is one."""
        function = self._functions.get(job.type)
        if function is None:
            return
        self.start(job.id)
        try:
            result = function(json.loads(job.payload.json))
        except Exception as error:  # noqa: BLE001 - any error fails the job
            self.fail(job.id, error)
            return
        if not inspect.isawaitable(result):
            self._end_with_result(job.id, result)
            return
        task = asyncio.ensure_future(self._run(job.id, result))
        self._running[job.id] = task
        task.add_done_callback(lambda ended: self._forget(job.id, ended))

    def _forget(self, job_id: str, task: asyncio.Task[None]) -> None:
        # The job may have been requeued and its next attempt started.
        if self._running.get(job_id) is task:
            del self._running[job_id]

    def _on_cancel_request(self, job_id: str) -> None:
        """Cancel the coroutine of a job after CancelJob."""
        if job_id in self._running:
            self._running[job_id].cancel()

    async def _run(self, job_id: str, result: Awaitable[Any]) -> None:
        attempt = self._jobs.find(job_id).attempt
        try:
            value = await result
        except asyncio.CancelledError:
            if self._is_current(job_id, attempt):
                self.end_cancelled(job_id)
            raise
        except Exception as error:  # noqa: BLE001 - any error fails the job
            if self._is_current(job_id, attempt):
                self.fail(job_id, error)
            return
        if self._is_current(job_id, attempt):
            self._end_with_result(job_id, value)

    def _end_with_result(self, job_id: str, result: Any) -> None:
        """End a job with its function's result, or as FAILED if the result is not JSON."""
        try:
            encode(result)
        except (TypeError, ValueError) as error:
            detail = _error("NotJson", str(error), retryable=False)
            self._advance(job_id, "FAILED", "FAILED", error=detail)
        else:
            self.succeed(job_id, result)

    def _is_current(self, job_id: str, attempt: int) -> bool:
        job = self._jobs.find(job_id)
        return state_of(job) == "RUNNING" and job.attempt == attempt

    async def _start(self) -> None:
        self._server_thread = threading.get_ident()
        server = aio.server(interceptors=[self._calls])
        add_JobServiceServicer_to_server(self._job_service, server)
        add_HandlerServiceServicer_to_server(HandlerService(self._handlers), server)
        add_SubscriptionServiceServicer_to_server(self._subscriptions, server)
        add_MonitorServiceServicer_to_server(self._monitor, server)
        server.add_generic_rpc_handlers((_health(self._handlers),))
        self.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._server = server

    async def _stop(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        if self._server is not None:
            await self._server.stop(None)


def _health(handlers: Mapping[str, Handler]) -> grpc.GenericRpcHandler[Any, Any]:
    """Return grpc.health.v1: the gateway and each queue with a handler are SERVING."""
    request_class, response_class = map(
        message_class, ("HealthCheckRequest", "HealthCheckResponse")
    )
    serving = response_class(status=1)

    async def check(request: Any, context: Any) -> Any:
        known = {""} | {f"queue/{handler.queue}" for handler in handlers.values()}
        if request.service not in known:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return serving

    method = grpc.unary_unary_rpc_method_handler(
        check, request_class.FromString, response_class.SerializeToString
    )
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})


def _error(kind: str, message: str, *, retryable: bool) -> JobError:
    return JobError(type=kind, message=message, retryable=retryable)

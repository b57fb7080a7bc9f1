"""Sends concurrent submits in shared messages, because a call costs more than a submit.

Like a group commit, it adds no delay: a submit is sent at once unless messages are in flight. The
submits that arrive meanwhile share the next message, and each has its own result.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import grpc
from grpc import aio

from headrace._convert import to_duration
from headrace._headers import CORRELATION_ID, TRACE_HEADERS, Metadata
from headrace._status import STATUS_TRAILER, call_error
from headrace.errors import LimitExceeded
from headrace.v1 import error_pb2, job_service_pb2

if TYPE_CHECKING:
    # The asynchronous stub has a type of its own, but no class.
    from headrace.v1.job_service_pb2_grpc import JobServiceAsyncStub

# The maximum number of entries in a message; the gateway accepts as many.
_MAX_ENTRIES: Final = 256
# The size at which a message is full, in bytes. The default limit of a gateway is above it.
_MAX_BYTES: Final = 1024 * 1024
# With this many messages in flight, submits wait for a response. A second message lets the client
# and the gateway work at the same time.
_IN_FLIGHT: Final = 2
# The longest wait for a response, in seconds, so that one slow message does not delay later ones;
# and the number of messages in flight from which submits wait for longer.
_MAX_WAIT: Final = 0.05
_MAX_IN_FLIGHT: Final = 64
# Seconds without shared messages after a gateway of an older version has rejected one.
_OLD_GATEWAY_PAUSE: Final = 60.0

# The largest protobuf Duration, in seconds.
_MAX_SECONDS: Final = 315_576_000_000.0

# The headers that are fields of an entry, and the names of the fields.
_ENTRY_HEADERS: Final = {
    CORRELATION_ID: "correlation_id",
    **{name: name for name in TRACE_HEADERS},
}
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(slots=True, eq=False)
class _Submit:
    """A submit: its size in bytes, the event loop's time at which its caller gives up, the headers
    that are fields of an entry, and the future response.
    """

    request: job_service_pb2.SubmitJobRequest
    size: int
    end: float
    headers: Metadata
    response: asyncio.Future[job_service_pb2.SubmitJobResponse]
    message: _Message | None = None


@dataclass(slots=True, eq=False)
class _Message:
    """A message in flight: its call, and the number of submits that wait for it."""

    call: asyncio.Task[None]
    waiting: int


@dataclass(slots=True, eq=False)
class _Lane:
    """The submits with the same headers, which can share a message."""

    headers: Metadata
    waiting: deque[_Submit] = field(default_factory=deque)
    in_flight: int = 0
    wake: asyncio.Handle | None = None


class SharedSubmits:
    """The stub of SubmitJob, with shared messages.

    Each submit has the semantics of a call of its own: deadline, cancellation, headers, trace and
    errors. A submit that is cancelled before it was sent is dropped. A call is cancelled when all
    of its submits are.

    Args:
        jobs: the stub of a gateway.
    """

    def __init__(self, jobs: JobServiceAsyncStub) -> None:
        self._jobs = jobs
        self._lanes: dict[Metadata, _Lane] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._single_until = 0.0

    async def __call__(
        self,
        request: job_service_pb2.SubmitJobRequest,
        *,
        timeout: float,  # noqa: ASYNC109 - the stub's argument
        metadata: Metadata | None = None,
    ) -> job_service_pb2.SubmitJobResponse:
        """Submit a job.

        Args:
            request: the job.
            timeout: the deadline, in seconds.
            metadata: the headers.

        Raises:
            AioRpcError: the submit was rejected or failed.
        """
        loop = asyncio.get_running_loop()
        metadata = metadata or ()
        headers = tuple(pair for pair in metadata if pair[0] not in _ENTRY_HEADERS)
        own = tuple(pair for pair in metadata if pair[0] in _ENTRY_HEADERS)
        end = loop.time() + timeout
        submit = _Submit(request, request.ByteSize(), end, own, loop.create_future())
        lane = self._lanes.get(headers)
        if lane is None:
            lane = self._lanes[headers] = _Lane(headers)
        if loop.time() < self._single_until:
            self._start_call(lane, [submit])
        else:
            lane.waiting.append(submit)
            if lane.wake is None:
                # All submits of this iteration of the event loop share a message.
                self._wake(lane, loop)
        timer = loop.call_at(end, _time_out, submit)
        try:
            return await submit.response
        finally:
            timer.cancel()
            _leave(submit)

    def _wake(self, lane: _Lane, loop: asyncio.AbstractEventLoop) -> None:
        """Send the waiting submits soon, or later if enough messages are in flight."""
        if lane.in_flight < _IN_FLIGHT:
            lane.wake = loop.call_soon(self._send, lane, context=contextvars.Context())
        else:
            lane.wake = loop.call_later(_MAX_WAIT, self._send, lane, context=contextvars.Context())

    def _send(self, lane: _Lane) -> None:
        """Send a message with the waiting submits, or several if they do not fit into one."""
        lane.wake = None
        while lane.waiting and lane.in_flight < _MAX_IN_FLIGHT:
            submits = _take(lane.waiting)
            if submits:
                self._start_call(lane, submits)
        self._drop_if_idle(lane)

    def _start_call(self, lane: _Lane, submits: Sequence[_Submit]) -> None:
        # A call must not run in the context of a single submitter, which can contain its span.
        call = asyncio.create_task(
            self._call(lane, submits), name="headrace-submits", context=contextvars.Context()
        )
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        message = _Message(call, len(submits))
        for submit in submits:
            submit.message = message
        lane.in_flight += 1

    async def _call(self, lane: _Lane, submits: Sequence[_Submit]) -> None:
        try:
            if len(submits) == 1:
                await self._call_singly(lane.headers, submits[0])
            else:
                await self._call_together(lane.headers, submits)
        except Exception as error:  # noqa: BLE001 - raised for each caller
            for submit in submits:
                _fail(submit, error)
        finally:
            lane.in_flight -= 1
            for submit in submits:
                # The call was cancelled: the channel is closed.
                submit.response.cancel()
            if lane.waiting and (lane.in_flight < _IN_FLIGHT or lane.wake is None):
                if lane.wake is not None:
                    lane.wake.cancel()
                self._wake(lane, asyncio.get_running_loop())
            self._drop_if_idle(lane)

    async def _call_together(self, headers: Metadata, submits: Sequence[_Submit]) -> None:
        clock = asyncio.get_running_loop().time
        now = clock()
        request = job_service_pb2.SubmitJobsRequest(
            entries=[
                job_service_pb2.SubmitJobsEntry(
                    request=submit.request,
                    timeout=to_duration(min(max(0.0, submit.end - now), _MAX_SECONDS), "timeout"),
                    **{_ENTRY_HEADERS[name]: value for name, value in submit.headers},
                )
                for submit in submits
            ]
        )
        try:
            response = await self._jobs.SubmitJobs(
                request,
                timeout=max(0.001, max(submit.end for submit in submits) - now),
                metadata=headers or None,
            )
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._single_until = clock() + _OLD_GATEWAY_PAUSE
            if _may_succeed_singly(error):
                await asyncio.gather(*(self._call_singly(headers, submit) for submit in submits))
                return
            for submit in submits:
                _fail(submit, error)
            return
        for submit, result in zip(submits, response.results, strict=True):
            if result.HasField("error"):
                _fail(submit, _rpc_error(result.error))
            else:
                _succeed(submit, result.response)

    async def _call_singly(self, headers: Metadata, submit: _Submit) -> None:
        left = submit.end - asyncio.get_running_loop().time()
        try:
            response = await self._jobs.SubmitJob(
                submit.request,
                timeout=max(0.001, left),
                metadata=(*headers, *submit.headers) or None,
            )
        except aio.AioRpcError as error:
            _fail(submit, error)
        else:
            _succeed(submit, response)

    def _drop_if_idle(self, lane: _Lane) -> None:
        if not lane.waiting and not lane.in_flight:
            self._lanes.pop(lane.headers, None)


def _may_succeed_singly(error: aio.AioRpcError) -> bool:
    """Return whether the submits of a rejected message may succeed in calls of their own.

    An older gateway does not know SubmitJobs, and a gateway may have lower limits than this module.
    """
    if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT):
        return True
    # gRPC itself rejects large messages with the code that quotas have.
    return isinstance(call_error(error), LimitExceeded)


def _take(waiting: deque[_Submit]) -> list[_Submit]:
    """Remove the submits of the next message; submits that have ended are dropped."""
    taken: list[_Submit] = []
    size = 0
    while waiting and len(taken) < _MAX_ENTRIES:
        if waiting[0].response.done():
            waiting.popleft()
            continue
        size += waiting[0].size
        if taken and size > _MAX_BYTES:
            break
        taken.append(waiting.popleft())
    return taken


def _leave(submit: _Submit) -> None:
    """Cancel a call when its last submit has ended."""
    message = submit.message
    if message is not None:
        message.waiting -= 1
        if not message.waiting:
            message.call.cancel()


def _time_out(submit: _Submit) -> None:
    _fail(
        submit,
        aio.AioRpcError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            aio.Metadata(),
            aio.Metadata(),
            "Deadline Exceeded",
            None,
        ),
    )


def _succeed(submit: _Submit, response: job_service_pb2.SubmitJobResponse) -> None:
    if not submit.response.done():
        submit.response.set_result(response)


def _fail(submit: _Submit, error: Exception) -> None:
    if not submit.response.done():
        submit.response.set_exception(error)


def _rpc_error(status: error_pb2.CallStatus) -> aio.AioRpcError:
    return aio.AioRpcError(
        _CODES.get(status.code, grpc.StatusCode.UNKNOWN),
        aio.Metadata(),
        # A CallStatus has the fields of a google.rpc.Status.
        aio.Metadata((STATUS_TRAILER, status.SerializeToString())),
        status.message,
        None,
    )

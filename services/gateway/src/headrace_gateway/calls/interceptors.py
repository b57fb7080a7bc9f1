"""What happens around every call: a request id, a size limit, and errors as statuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message

from headrace_core.domain.errors import (
    HeadraceError,
    LimitExceeded,
    ShuttingDown,
    SlowConsumer,
    Unavailable,
)
from headrace_core.domain.ids import uuid7
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_gateway.api.validate import too_deep
from headrace_gateway.calls.call import Call, Principal
from headrace_gateway.calls.errors import DETAILS_KEY, CallError, UndecodableRequest, to_call_error
from headrace_gateway.calls.failures import FailureLog
from headrace_gateway.calls.limits import MAX_DEPTH, MAX_METADATA_BYTES
from headrace_gateway.calls.nesting import deepest_value
from headrace_gateway.calls.resets import Resets
from headrace_gateway.calls.stream_writer import StreamWriter
from headrace_gateway.streams import Gauges
from headrace_health import strict

_log = structlog.get_logger()

REQUEST_ID: Final = "x-request-id"
_MAX_REQUEST_ID: Final = 128

# Seconds without a new call after which a draining gateway has no call left in its transport, and
# how long it looks out for that.
_LINGER: Final = 0.05
_MAX_LINGER: Final = 1.0

# The submitter bounds this one itself, at a fraction of the cost.
_BOUNDED: Final = frozenset({"/headrace.v1.JobService/SubmitJob"})

# The principal of every call, until access control authenticates callers.
_ANONYMOUS: Final = Principal(name="anonymous")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = Any
_Unary: TypeAlias = Callable[[Any, Call], Awaitable[Message]]
_Stream: TypeAlias = Callable[[Any, Call], AsyncGenerator[Message, None]]


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # not at runtime
    """Wraps the methods of one protobuf package; health and reflection only decode strictly.

    A call's request id is the one that the client sent in `x-request-id`, or a new one. It stands
    in every log line of the call as `correlation_id` and goes back to the client: for a unary call
    and for every error in the trailing metadata, for a stream in the initial metadata.

    Args:
        package: the package, as `headrace.v1`.
        requests: the class of each method's request, by the method's full path.
        max_request_bytes: the largest request.
        stream_patience: how long the client of a stream may take nothing, in seconds.
        call_timeout: how long a unary call may take, in seconds.
        gauges: counts the streams that are ended for that.
    """

    def __init__(
        self,
        *,
        package: str,
        requests: dict[str, type[Message]],
        max_request_bytes: int,
        stream_patience: float,
        call_timeout: float,
        gauges: Gauges,
    ) -> None:
        self._prefix = f"/{package}."
        self._requests = requests
        self._max_request_bytes = max_request_bytes
        self._stream_patience = stream_patience
        self._call_timeout = call_timeout
        self._gauges = gauges
        self._resets = Resets(gauges=gauges)
        self._wrapped: dict[str, _Handler] = {}
        self._failures = FailureLog()
        self._draining = False
        self._last_refusal = 0.0

    async def drain(self) -> None:
        """Refuses new calls from now on, and returns when none has come for a moment.

        A server that stops cancels what its transport has received but not handed over yet; a
        client would learn nothing but CANCELLED. Here such calls are told to go elsewhere.
        """
        self._draining = True
        began = self._last_refusal = time.monotonic()
        while True:
            now = time.monotonic()
            quiet = self._last_refusal + _LINGER - now
            if quiet <= 0 or now > began + _MAX_LINGER:
                return
            await asyncio.sleep(quiet)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """The handler of a method, wrapped."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if not method.startswith(self._prefix):
            return strict(handler)
        wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: _Handler) -> _Handler:
        request_class = self._requests[method]
        # The bytes are decoded inside of the wrapper, so that a fault in them is answered as any
        # other error and not with gRPC's own bare INTERNAL.
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, request_class, handler.unary_stream),
                request_deserializer=None,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, request_class, handler.unary_unary),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    def _unary(
        self, method: str, request_class: type[Message], behavior: _Unary
    ) -> Callable[[bytes, Context], Awaitable[Message]]:
        if method not in _BOUNDED:
            behavior = self._bounded(behavior)

        async def unary(raw: bytes, context: Context) -> Message:
            call = _begin(context)
            request_id = call.correlation_id
            try:
                _check_metadata(call)
                response = await behavior(self._read(raw, request_class), call)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - every error becomes a status
                told = self._tell(method, request_id, error)
            else:
                context.set_trailing_metadata(((REQUEST_ID, request_id),))
                return response
            del raw
            return await _abort(context, request_id, told)

        return unary

    def _bounded(self, behavior: _Unary) -> _Unary:
        async def bounded(request: Any, call: Call) -> Message:
            scope = asyncio.timeout(self._call_timeout)
            try:
                async with scope:
                    return await behavior(request, call)
            except TimeoutError as error:
                if not scope.expired():
                    raise
                # Nothing else keeps a call waiting.
                raise Unavailable("postgresql") from error

        return bounded

    def _stream(
        self, method: str, request_class: type[Message], behavior: _Stream
    ) -> Callable[[bytes, Context], Awaitable[None]]:
        # It writes, rather than being a generator itself: so the servicer's generator is closed
        # here and now when the call is cancelled, and not when somebody collects the garbage.
        async def respond(raw: bytes, context: Context, call: Call) -> None:
            request = self._read(raw, request_class)
            with StreamWriter(context, request=request, patience=self._stream_patience) as writer:
                async with aclosing(behavior(request, call)) as responses:
                    async for response in responses:
                        await writer.write(response)

        async def stream(raw: bytes, context: Context) -> None:
            call = _begin(context)
            request_id = call.correlation_id
            await context.send_initial_metadata(((REQUEST_ID, request_id),))
            told: CallError | None = None
            try:
                _check_metadata(call)
                await respond(raw, context, call)
            except grpc.aio.AbortError:
                raise
            except SlowConsumer as error:
                self._gauges.slow_consumers += 1
                # It is told as soon as it reads again, if that is soon.
                self._resets.bound(self._stream_patience)
                _log.info("stream_not_read", method=method, patience_s=self._stream_patience)
                told = self._tell(method, request_id, error)
            except Exception as error:  # noqa: BLE001 - every error becomes a status
                told = self._tell(method, request_id, error)
            del raw
            if told is not None:
                await _abort(context, request_id, told)

        return stream

    def _tell(self, method: str, request_id: str, error: Exception) -> CallError:
        """What the client is told of an error; the log has the rest."""
        told = to_call_error(error, request_id=request_id)
        fields = {"code": told.code.name, "method": method, "reason": told.reason}
        if isinstance(error, Unavailable):
            self._failures.write("warning", **fields, error=str(error), cause=error.cause)
        elif told.code is grpc.StatusCode.INTERNAL:
            self._failures.write("error", **fields, exc_info=error)
        elif isinstance(error, HeadraceError):
            _log.debug("call_refused", method=method, reason=told.reason)
        return told

    def _read(self, raw: bytes, request_class: type[Message]) -> Message:
        if self._draining:
            self._last_refusal = time.monotonic()
            raise ShuttingDown
        if len(raw) > self._max_request_bytes:
            raise LimitExceeded(
                "request",
                limit="HEADRACE_MAX_REQUEST_BYTES",
                maximum=self._max_request_bytes,
                actual=len(raw),
                unit="bytes",
            )
        try:
            return request_class.FromString(raw)
        except DecodeError:
            deepest = deepest_value(request_class, raw)
            if deepest is not None and deepest[1] > MAX_DEPTH:
                raise too_deep(*deepest) from None
            raise UndecodableRequest(request_class.DESCRIPTOR.full_name) from None


def _begin(context: Context) -> Call:
    """Return the context of a call, and bind its request id to the log."""
    # gRPC copies the metadata on each read.
    metadata: Any = context.invocation_metadata() or ()
    request_id = ""
    for key, value in metadata:
        if key == REQUEST_ID:
            request_id = value if isinstance(value, str) else ""
    if not (0 < len(request_id) <= _MAX_REQUEST_ID and request_id.isprintable()):
        request_id = str(uuid7())
    # Each call runs in a task of its own, and so in a context of its own.
    structlog.contextvars.bind_contextvars(correlation_id=request_id)
    remaining = context.time_remaining()
    return Call(
        correlation_id=request_id,
        principal=_ANONYMOUS,
        tenant=DEFAULT_TENANT,
        deadline=None if remaining is None else time.monotonic() + remaining,
        metadata=metadata,
    )


def _check_metadata(call: Call) -> None:
    """Raise LimitExceeded when a call has more than `MAX_METADATA_BYTES` of metadata."""
    size = sum(len(key) + len(value) + 32 for key, value in call.metadata)
    if size > MAX_METADATA_BYTES:
        raise LimitExceeded(
            "metadata",
            limit="metadata of a call",
            maximum=MAX_METADATA_BYTES,
            actual=size,
            unit="bytes",
        )


async def _abort(context: Context, request_id: str, told: CallError) -> NoReturn:
    """Ends a call with an error.

    gRPC keeps what `abort` raises with the call, in a cycle that lives until somebody collects the
    garbage. Nothing that is large may hang on that: neither the request in a caller's frame nor,
    when it is called while an error is handled, that error with the frames it came through.
    """
    try:
        await context.abort(
            told.code,
            told.message,
            ((REQUEST_ID, request_id), (DETAILS_KEY, told.status())),
        )
    except grpc.aio.InternalError:
        # The client has gone before it was told.
        raise asyncio.CancelledError from None

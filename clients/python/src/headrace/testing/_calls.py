"""The calls that a fake gateway receives: records, faults and errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, NoReturn

import grpc
from grpc import aio

from headrace._messages import message_class
from headrace._status import STATUS_TRAILER
from headrace.errors import CallError, Refusal, Unauthenticated, Unavailable

_END: Final = object()

_CREDENTIAL_CHANGED: Final = Refusal(
    code="UNAUTHENTICATED",
    reason="CREDENTIAL_CHANGED",
    message="the credential of this stream has expired or changed; resume with a valid credential",
)


@dataclass(frozen=True, slots=True)
class Call:
    """A received call.

    Args:
        method: the name of the RPC, such as `SubmitJob`.
        request: the request message.
        seconds_left: the time until the deadline; None without a deadline.
        credential: the token or API key; empty without one.
    """

    method: str
    request: Any
    seconds_left: float | None
    credential: str = field(default="", repr=False)


class Calls(aio.ServerInterceptor):  # type: ignore[type-arg]  # not subscriptable at run time
    """Records calls, injects faults, and converts client errors to statuses.

    Attributes:
        received: all calls so far.
        unavailable: the number of calls to reject with UNAVAILABLE.
        allowed: the accepted credentials; None to accept every call.
        revoked: the credentials to reject.
    """

    def __init__(self) -> None:
        self.received: list[Call] = []
        self.unavailable = 0
        self.allowed: frozenset[str] | None = None
        self.revoked: set[str] = set()
        # The open streams, each with its credential.
        self._streams: dict[asyncio.Future[Refusal | None], str] = {}

    def revoke(self, credential: str) -> None:
        """Reject a credential, and end its streams."""
        self.revoked.add(credential)
        for ending, used in self._streams.items():
            if used == credential and not ending.done():
                ending.set_result(_CREDENTIAL_CHANGED)

    def authenticate(self, call: Call) -> None:
        """Raise Unauthenticated if the credential of a call is not valid."""
        allowed = self.allowed is None or call.credential in self.allowed
        if call.credential in self.revoked or not allowed:
            message = "the credential is not valid"
            raise Unauthenticated(
                Refusal(code="UNAUTHENTICATED", reason="UNAUTHENTICATED", message=message)
            )

    def cut(self, refusal: Refusal | None) -> None:
        """End all open streams with `refusal`, or with OK if it is None."""
        for ending in self._streams:
            if not ending.done():
                ending.set_result(refusal)

    async def admit(self, call: Call) -> None:
        """Record a call; raise the error to inject, if any."""
        self.received.append(call)
        if self.unavailable:
            self.unavailable -= 1
            message = "postgresql is not available; try again"
            raise Unavailable(
                Refusal(
                    code="UNAVAILABLE",
                    reason="UNAVAILABLE",
                    message=message,
                    metadata={"dependency": "postgresql"},
                )
            )

    async def responses(
        self,
        call: Call,
        stream: AsyncIterator[Any],
    ) -> AsyncGenerator[Any, None]:
        """Yield the responses of a stream until its end or a cut."""
        ending = asyncio.get_running_loop().create_future()
        self._streams[ending] = call.credential
        pending: asyncio.Future[Any] | None = None
        place: dict[str, str] = {}
        try:
            while True:
                pending = asyncio.ensure_future(_next_or_end(stream))
                await asyncio.wait({pending, ending}, return_when=asyncio.FIRST_COMPLETED)
                if ending.done():
                    if (refusal := ending.result()) is not None:
                        if refusal is _CREDENTIAL_CHANGED:
                            refusal = replace(refusal, metadata=place)
                        raise CallError(refusal)
                    return
                if (response := pending.result()) is _END:
                    return
                yield response
                place = _place_after(response) or place
        finally:
            del self._streams[ending]
            if pending is not None:
                pending.cancel()
                await asyncio.wait({pending})

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method.rpartition("/")[2]
        if handler is None or handler_call_details.method.startswith("/grpc."):
            return handler

        async def unary(request: Any, context: Any) -> Any:
            try:
                call = Call(method, request, context.time_remaining(), _credential(context))
                await self.admit(call)
                self.authenticate(call)
                return await handler.unary_unary(request, context)
            except CallError as error:
                await _abort(context, error.refusal)

        async def streaming(request: Any, context: Any) -> AsyncGenerator[Any, None]:
            call = Call(method, request, context.time_remaining(), _credential(context))
            try:
                await self.admit(call)
                self.authenticate(call)
                await context.send_initial_metadata((("x-request-id", request_id(context)),))
                async with (
                    aclosing(handler.unary_stream(request, context)) as stream,
                    aclosing(self.responses(call, stream)) as responses,
                ):
                    async for response in responses:
                        yield response
            except CallError as error:
                await _abort(context, error.refusal)

        coders = handler.request_deserializer, handler.response_serializer
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(streaming, *coders)
        return grpc.unary_unary_rpc_method_handler(unary, *coders)


def request_id(context: Any) -> str:
    """Return the x-request-id of a call."""
    return str(dict(context.invocation_metadata() or ()).get("x-request-id", "fake"))


def trace_context(context: Any) -> dict[str, str]:
    """Return the trace context of a call: `traceparent` and `tracestate`, if it has them."""
    headers = dict(context.invocation_metadata() or ())
    return {name: str(headers[name]) for name in ("traceparent", "tracestate") if name in headers}


def _credential(context: Any) -> str:
    header = str(dict(context.invocation_metadata() or ()).get("authorization", ""))
    return header.removeprefix("Bearer ")


def _place_after(response: Any) -> dict[str, str]:
    """Return the request field that resumes a stream after a response, and its value."""
    if cursor := getattr(response, "cursor", ""):
        return {"cursor": cursor}
    events = getattr(response, "events", ())
    return {"after_seq": str(events[-1].seq)} if events else {}


async def _next_or_end(stream: AsyncIterator[Any]) -> Any:
    return await anext(stream, _END)


async def _abort(context: Any, refusal: Refusal) -> NoReturn:
    status = status_message(refusal)
    trailers = ((STATUS_TRAILER, status.SerializeToString()),) if status.details else ()
    await context.abort(grpc.StatusCode[refusal.code], refusal.message, trailers)
    raise AssertionError("abort returned")


def status_message(refusal: Refusal) -> Any:
    """Return the google.rpc.Status of a refusal."""
    details: list[tuple[str, dict[str, Any]]] = []
    if refusal.reason:
        entries = [{"key": key, "value": value} for key, value in refusal.metadata.items()]
        info = {"reason": refusal.reason, "domain": "headrace", "metadata": entries}
        details.append(("ErrorInfo", info))
    if refusal.violations:
        fields = [{"field": v.field, "description": v.description} for v in refusal.violations]
        details.append(("BadRequest", {"field_violations": fields}))
    if refusal.retry_after is not None:
        seconds, rest = divmod(refusal.retry_after, timedelta(seconds=1))
        delay = {"seconds": seconds, "nanos": rest // timedelta(microseconds=1) * 1000}
        details.append(("RetryInfo", {"retry_delay": delay}))
    return message_class("Status")(
        code=grpc.StatusCode[refusal.code].value[0],
        message=refusal.message,
        details=[
            {
                "type_url": f"type.googleapis.com/google.rpc.{name}",
                "value": message_class(name)(**fields).SerializeToString(),
            }
            for name, fields in details
        ],
    )

"""The routes of all RPCs, on the server of the Connect protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from connectrpc._server_shared import EndpointServerStream, EndpointUnary
from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.compat import google_protobuf_binary_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from grpc.aio import AioRpcError
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from headrace_web.credentials import metadata_of
from headrace_web.gateway import METHODS, Gateway, Metadata, Method
from headrace_web.problems import Problem
from headrace_web.rpc.errors import connect_error, shutting_down

M = TypeVar("M", bound=Message)

_Context = RequestContext[Message, Message]
_Endpoint: TypeAlias = EndpointUnary[Any, Any] | EndpointServerStream[Any, Any]

# The deadline of a unary call without one, in seconds; the same as that of the Python client.
_TIMEOUT_S: Final = 10.0
# The body of a stream's request has a prefix, so its limit is a little below that of every request.
_PREFIX_BYTES: Final = 1024
_GRPC: Final = "application/grpc"
_GRPC_WEB: Final = "application/grpc-web"


def rpc_routes(
    gateway: Gateway, *, stopping: asyncio.Event, max_request_bytes: int
) -> Sequence[Route]:
    """Return the routes of all RPCs.

    Args:
        gateway: the gateway.
        stopping: set when the service stops; streams then end.
        max_request_bytes: the largest body, in bytes.
    """
    server = _Server(
        service=_Calls(gateway, stopping),
        endpoints=_endpoints,
        read_max_bytes=max_request_bytes - _PREFIX_BYTES,
        codecs=(google_protobuf_binary_codec(), _CompactJson()),
    )
    return [Route(path, server) for path in METHODS]


class _CompactJson(Codec[Message, M]):
    """The library's JSON codec indents each message."""

    def name(self) -> str:
        """Return the name in content types."""
        return "json"

    def encode(self, message: Message) -> bytes:
        """Return the JSON text of a message."""
        return msgspec.json.encode(json_format.MessageToDict(message))

    def decode(self, data: bytes | bytearray, message_class: type[M]) -> M:
        """Return the message of a JSON text; unknown fields are ignored, as in the protocol.

        Raises:
            json_format.ParseError: the text does not match the message.
        """
        return json_format.Parse(bytes(data), message_class(), ignore_unknown_fields=True)


class _Server(ConnectASGIApplication["_Calls"]):
    path = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, unless it needs HTTP/2."""
        kind = Request(scope).headers.get("content-type", "")
        if kind.startswith(_GRPC) and not kind.startswith(_GRPC_WEB):
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "this server has no gRPC; call the gateway, or use Connect or gRPC-Web",
            )
        await super().__call__(scope, receive, send)


class _Calls:
    """The calls of the gateway on behalf of requests.

    Args:
        gateway: the gateway.
        stopping: set when the service stops.
    """

    def __init__(self, gateway: Gateway, stopping: asyncio.Event) -> None:
        self._gateway = gateway
        self._stopping = stopping

    async def unary(self, method: Method, request: Message, context: _Context) -> Message:
        """Call a unary RPC.

        Raises:
            ConnectError: the call was rejected or failed.
        """
        timeout = _timeout(context)
        if timeout is None:
            timeout = _TIMEOUT_S
        try:
            response: Message = await self._gateway.call(
                method, request, metadata=_metadata(context), timeout=timeout
            )
            return response
        except AioRpcError as error:
            raise connect_error(error) from None

    async def stream(
        self, method: Method, request: Message, context: _Context
    ) -> AsyncIterator[Message]:
        """Yield the responses of a streaming RPC.

        Raises:
            ConnectError: the call was rejected or failed, or the service stops.
        """
        stopping = asyncio.ensure_future(self._stopping.wait())
        responses = self._gateway.stream(
            method, request, metadata=_metadata(context), timeout=_timeout(context)
        )
        try:
            async with aclosing(responses):
                while True:
                    reading = asyncio.ensure_future(anext(responses))
                    try:
                        await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if not reading.done():
                            reading.cancel()
                            await asyncio.wait({reading})
                    if reading.cancelled():
                        raise shutting_down()
                    yield reading.result()
        except StopAsyncIteration:
            return
        except AioRpcError as error:
            raise connect_error(error) from None
        finally:
            stopping.cancel()


def _endpoints(calls: _Calls) -> Mapping[str, _Endpoint]:
    return {path: _endpoint(method, calls) for path, method in METHODS.items()}


def _endpoint(method: Method, calls: _Calls) -> _Endpoint:
    # A GET may call RPCs that only read.
    level = method.descriptor.GetOptions().idempotency_level
    reads = level == MethodOptions.NO_SIDE_EFFECTS
    info = MethodInfo(
        name=method.descriptor.name,
        service_name=method.descriptor.containing_service.full_name,
        input=method.request_type,
        output=method.response_type,
        idempotency_level=(IdempotencyLevel.NO_SIDE_EFFECTS if reads else IdempotencyLevel.UNKNOWN),
        stream_type=StreamType.SERVER_STREAM if method.streams else StreamType.UNARY,
    )
    if method.streams:
        return Endpoint.server_stream(
            info, lambda request, context: calls.stream(method, request, context)
        )
    return Endpoint.unary(info, lambda request, context: calls.unary(method, request, context))


def _metadata(context: _Context) -> Metadata:
    host = (context.client_address or "").rpartition(":")[0]
    try:
        return metadata_of(context.request_headers, client=host)
    except Problem as problem:
        raise ConnectError(Code.INVALID_ARGUMENT, problem.detail) from None


def _timeout(context: _Context) -> float | None:
    """Return the time that the call has left, in seconds; None without a deadline."""
    left = context.timeout_ms
    return None if left is None else max(0.001, left / 1000)

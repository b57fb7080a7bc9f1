"""Requests of the services that come with gRPC, decoded so that a malformed one is told so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

_Handler: TypeAlias = Any
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# None of their requests needs so many.
_MAX_BYTES: Final = 65_536


def strict(handler: _Handler) -> _Handler:
    """A method's handler that answers bytes which are no request, or more than 64 KiB of them, with
    INVALID_ARGUMENT.

    gRPC's own decoding answers UNKNOWN, with the name of a Python exception, and logs an error each
    time.
    """
    decode = handler.request_deserializer
    if decode is None:
        return handler

    async def read(raw: bytes, context: _Context) -> Any:
        # Before it is decoded: of a message without fields, protobuf takes much that is none.
        if len(raw) > _MAX_BYTES:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"the request has {len(raw)} bytes; at most {_MAX_BYTES} are allowed",
            )
        try:
            return decode(raw)
        except DecodeError:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the request is not the method's message"
            )

    async def unary_unary(raw: bytes, context: _Context) -> Any:
        return await handler.unary_unary(await read(raw, context), context)

    async def unary_stream(raw: bytes, context: _Context) -> AsyncIterator[Any]:
        request = await read(raw, context)
        async for response in handler.unary_stream(request, context):
            yield response

    async def stream_stream(raws: AsyncIterator[bytes], context: _Context) -> AsyncIterator[Any]:
        requests = (await read(raw, context) async for raw in raws)
        async for response in handler.stream_stream(requests, context):
            yield response

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(
            stream_stream, response_serializer=handler.response_serializer
        )
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(
            unary_stream, response_serializer=handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(
        unary_unary, response_serializer=handler.response_serializer
    )


class StrictRequests(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # not at runtime
    """Makes every method of a server `strict`."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """The handler of a method, made strict; None when there is none."""
        handler = await continuation(handler_call_details)
        return handler and strict(handler)

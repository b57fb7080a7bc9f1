"""Strict decoding of requests to gRPC's own services, with INVALID_ARGUMENT for malformed ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

_Handler: TypeAlias = Any
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# The size limit of a request. Valid requests to these services are much smaller.
_MAX_BYTES: Final = 65_536


def strict(handler: _Handler) -> _Handler:
    """Return a method handler that rejects malformed requests and requests of more than 64 KiB.

    The status is INVALID_ARGUMENT. gRPC's own decoding returns UNKNOWN with the name of a Python
    exception, and logs an error each time.
    """
    decode = handler.request_deserializer
    if decode is None:
        return handler

    async def read(raw: bytes, context: _Context) -> Any:
        # Check the size first: a message without fields decodes almost any bytes.
        if len(raw) > _MAX_BYTES:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"the request is {len(raw):,} bytes; the limit is {_MAX_BYTES:,}",
            )
        try:
            return decode(raw)
        except DecodeError:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "the request is not a valid message of this method",
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
    """Applies `strict` to all methods of a server."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Return the strict handler of a method; None for an unknown method."""
        handler = await continuation(handler_call_details)
        return handler and strict(handler)

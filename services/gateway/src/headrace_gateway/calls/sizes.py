"""The link `sizes`: decompresses requests, and rejects oversized requests and metadata."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import ClassVar, Final

from google.protobuf.message import Message

from headrace_core.domain.errors import LimitExceeded
from headrace_gateway.calls.call import Metadata
from headrace_gateway.calls.compression import CorruptRequest, decompress, is_compressed
from headrace_gateway.calls.exchange import Exchange, Method, Proceed
from headrace_gateway.calls.statuses import UndecodableRequest

# Maximum size of a call's metadata, in bytes: keys, values, and 32 bytes for each key-value pair
# (RFC 9113, section 6.5.2).
MAX_METADATA_BYTES: Final = 16 * 1024
# A health or reflection request contains only a few names.
_MAX_FOREIGN_BYTES: Final = 65_536


class Sizes:
    """Limits the size of a call before the gateway decodes its request.

    Args:
        max_request_bytes: the maximum size of a request to a Headrace service.
    """

    name: ClassVar[str] = "sizes"
    needs: ClassVar[tuple[str, ...]] = ("errors",)

    def __init__(self, *, max_request_bytes: int) -> None:
        self._max_request_bytes = max_request_bytes

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that checks the sizes of a call and calls `proceed`."""
        maximum, limit = self._max_request_bytes, "HEADRACE_MAX_REQUEST_BYTES"
        if method.foreign:
            maximum, limit = _MAX_FOREIGN_BYTES, "health or reflection request"

        def check(raw: bytes) -> bytes:
            size = len(raw)
            if size <= maximum and is_compressed(raw):
                try:
                    raw, size = decompress(raw, maximum=maximum)
                except CorruptRequest:
                    raise UndecodableRequest(method.request_class.DESCRIPTOR.full_name) from None
            if size > maximum:
                raise LimitExceeded(
                    "request", limit=limit, maximum=maximum, actual=size, unit="bytes"
                )
            return raw

        async def check_each(raws: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for raw in raws:
                yield check(raw)

        def check_unary(exchange: Exchange) -> Awaitable[Message | None]:
            _check_metadata(exchange.metadata)
            exchange.raw = check(exchange.raw)
            return proceed(exchange)

        def check_stream(exchange: Exchange) -> Awaitable[Message | None]:
            _check_metadata(exchange.metadata)
            exchange.raw = check_each(exchange.raw)
            return proceed(exchange)

        return check_stream if method.streams_requests else check_unary


def _check_metadata(metadata: Metadata) -> None:
    size = 0
    for key, value in metadata:
        size += len(key) + len(value) + 32
    if size > MAX_METADATA_BYTES:
        raise LimitExceeded(
            "metadata",
            limit="call metadata",
            maximum=MAX_METADATA_BYTES,
            actual=size,
            unit="bytes",
        )

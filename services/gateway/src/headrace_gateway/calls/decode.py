"""The link `decode`: decodes the bytes of a request into its message."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any, ClassVar, Final

from google.protobuf.message import DecodeError, Message

from headrace.v1 import data_pb2
from headrace_core.domain.errors import DocumentTooDeep
from headrace_core.domain.limits import MAX_DOCUMENT_DEPTH
from headrace_gateway.calls.exchange import Exchange, Method, Proceed
from headrace_gateway.calls.statuses import UndecodableRequest

_DATA: Final = data_pb2.Data.DESCRIPTOR.full_name
_CONTAINERS: Final = frozenset({"google.protobuf.Struct", "google.protobuf.ListValue"})
# The maximum number of fields that a search visits. A search of that many takes up to 20 ms.
_MAX_FIELDS: Final = 25_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Decode:
    """Decodes requests.

    gRPC's own decoding would reject malformed bytes with INTERNAL or UNKNOWN, without details.
    """

    name: ClassVar[str] = "decode"
    needs: ClassVar[tuple[str, ...]] = ("errors", "sizes")

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that decodes the request and calls `proceed`."""
        request_class = method.request_class

        def decode_unary(exchange: Exchange) -> Awaitable[Message | None]:
            exchange.request = _decode_message(request_class, exchange.raw)
            exchange.raw = None
            return proceed(exchange)

        async def decode_each(raws: AsyncIterator[bytes]) -> AsyncIterator[Message]:
            async for raw in raws:
                yield _decode_message(request_class, raw)

        def decode_stream(exchange: Exchange) -> Awaitable[Message | None]:
            exchange.request = decode_each(exchange.raw)
            return proceed(exchange)

        return decode_stream if method.streams_requests else decode_unary


def _decode_message(request_class: type[Message], raw: bytes) -> Message:
    """Return the request message.

    Raises:
        DocumentTooDeep: a document is nested deeper than `MAX_DOCUMENT_DEPTH`.
        UndecodableRequest: the bytes are not a message of this class.
    """
    try:
        return request_class.FromString(raw)
    except DecodeError:
        deepest = find_deepest_document(request_class, raw)
        if deepest is not None and deepest[1] > MAX_DOCUMENT_DEPTH:
            field, depth = deepest
            raise DocumentTooDeep(field, depth=depth, maximum=MAX_DOCUMENT_DEPTH) from None
        raise UndecodableRequest(request_class.DESCRIPTOR.full_name) from None


def find_deepest_document(request_class: type[Message], raw: bytes) -> tuple[str, int] | None:
    """Find the deepest document of a request that protobuf cannot decode.

    Args:
        request_class: the class of the request message.
        raw: the serialized request.

    Returns:
        The path of the document's field and the depth of the document; None if the bytes are not a
        message of this class, or contain more than 25,000 fields.
    """
    found = ("", 0)
    fields = 0
    # For each message: its descriptor, start and end in `raw`, nesting depth, field path, and
    # whether it is part of a document.
    messages: list[tuple[Any, int, int, int, str, bool]] = [
        (request_class.DESCRIPTOR, 0, len(raw), 0, "", False)
    ]
    try:
        while messages:
            kind, offset, end, depth, path, inside = messages.pop()
            if depth > found[1]:
                found = (path, depth)
            number_of: dict[str, int] = {}
            while offset < end:
                fields += 1
                if fields > _MAX_FIELDS:
                    return None
                tag, offset = _read_varint(raw, offset)
                wire = tag & 7
                if wire == _VARINT:
                    _, offset = _read_varint(raw, offset)
                elif wire in {_FIXED32, _FIXED64}:
                    offset += 4 if wire == _FIXED32 else 8
                elif wire == _BYTES:
                    size, offset = _read_varint(raw, offset)
                    field = kind.fields_by_number.get(tag >> 3)
                    offset += size
                    if offset > end:
                        return None
                    if field is None or field.message_type is None:
                        continue
                    inner = field.message_type
                    name = path
                    if not inside and kind.full_name != _DATA:
                        number = number_of[field.name] = number_of.get(field.name, -1) + 1
                        index = f"[{number}]" if field.is_repeated else ""
                        name = f"{path}.{field.name}{index}".removeprefix(".")
                    level = depth + (inner.full_name in _CONTAINERS)
                    messages.append(
                        (
                            inner,
                            offset - size,
                            offset,
                            level,
                            name,
                            inside or kind.full_name == _DATA,
                        )
                    )
                else:
                    return None
    except IndexError:
        return None
    return found


def _read_varint(raw: bytes, offset: int) -> tuple[int, int]:
    """Return a varint and the offset after it.

    Raises:
        IndexError: the bytes at `offset` are not a varint.
    """
    number = shift = 0
    while True:
        byte = raw[offset]
        offset += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, offset
        shift += 7
        if shift > 63:
            raise IndexError

"""How deep documents are nested, also where no decoder gets to the bottom."""

from __future__ import annotations

import re
from typing import Any, Final

from google.protobuf.message import Message

from headrace.v1 import data_pb2

_DATA: Final = data_pb2.Data.DESCRIPTOR.full_name
_CONTAINERS: Final = frozenset({"google.protobuf.Struct", "google.protobuf.ListValue"})
# How many fields of a request are looked at: 20 ms of the loop's time.
_MAX_FIELDS: Final = 25_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


class TooDeep(ValueError):
    """A document is nested deeper than it may be; `depth` is how many levels it has."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.depth = depth


def depth_of(content: Any) -> int:
    """Return the number of levels of objects and lists of a decoded document."""
    depth, level = 0, [content]
    while level := [item for item in level if type(item) is dict or type(item) is list]:
        depth += 1
        level = [
            child for item in level for child in (item.values() if type(item) is dict else item)
        ]
    return depth


def depth_of_text(raw: bytes) -> int:
    """Return the same of JSON text that is too deep for a decoder."""
    depth = deepest = 0
    for byte in _STRING.sub(b"", raw):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def deepest_value(request_class: type[Message], raw: bytes) -> tuple[str, int] | None:
    """Find the deepest document of a request that protobuf refuses to decode.

    Args:
        request_class: what the request should be.
        raw: the request.

    Returns:
        The path of the field that has the document, and its levels; None when the bytes are no such
        request, or have too many fields.
    """
    found = ("", 0)
    fields = 0
    # Descriptor, first and last place, levels around it, the document's path, whether it is in one.
    messages: list[tuple[Any, int, int, int, str, bool]] = [
        (request_class.DESCRIPTOR, 0, len(raw), 0, "", False)
    ]
    try:
        while messages:
            kind, place, end, depth, path, inside = messages.pop()
            if depth > found[1]:
                found = (path, depth)
            number_of: dict[str, int] = {}
            while place < end:
                fields += 1
                if fields > _MAX_FIELDS:
                    return None
                tag, place = _varint(raw, place)
                wire = tag & 7
                if wire == _VARINT:
                    _, place = _varint(raw, place)
                elif wire in {_FIXED32, _FIXED64}:
                    place += 4 if wire == _FIXED32 else 8
                elif wire == _BYTES:
                    size, place = _varint(raw, place)
                    field = kind.fields_by_number.get(tag >> 3)
                    place += size
                    if place > end:
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
                        (inner, place - size, place, level, name, inside or kind.full_name == _DATA)
                    )
                else:
                    return None
    except IndexError:
        return None
    return found


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """A number and the place behind it.

    Raises:
        IndexError: there is none.
    """
    number = shift = 0
    while True:
        byte = raw[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
        shift += 7
        if shift > 63:
            raise IndexError

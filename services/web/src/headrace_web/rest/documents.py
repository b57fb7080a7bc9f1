"""Messages of the contract as JSON documents, with payloads and results as plain JSON.

The mapping is that of proto3, except for two rules. A `Data` is its document itself, byte for byte
as it is stored. Fields without presence are always in the document.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import msgspec
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from headrace_web.problems import Problem

Fields: TypeAlias = Mapping[str, msgspec.Raw]

DATA: Final = "headrace.v1.Data"

_LARGE_INTEGERS: Final = {
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
}
_FLOATS: Final = {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}

encode: Final = msgspec.json.Encoder().encode
_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def document(message: Message) -> Any:
    """Return the document of a message, for `encode`."""
    descriptor = message.DESCRIPTOR
    if descriptor.full_name == DATA:
        return _plain(message)
    if descriptor.full_name.startswith("google."):
        return json_format.MessageToDict(message)
    return {
        field.json_name: _field(field, getattr(message, field.name))
        for field in descriptor.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _plain(data: Any) -> Any:
    """Return the document of a `Data`; null if it was too large to be sent."""
    return msgspec.Raw(data.json) if data.json else None


def _field(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        values = field.message_type.fields_by_name["value"]
        return {str(key): _single(values, one) for key, one in value.items()}
    if field.is_repeated:
        return [_single(field, one) for one in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return document(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if field.type in _LARGE_INTEGERS:
        return str(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    if field.type in _FLOATS and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return value


def parse_object(body: bytes) -> dict[str, msgspec.Raw]:
    """Return the members of a JSON object, each as its own text.

    Raises:
        Problem: the text is not a JSON object.
    """
    try:
        return _decode_object(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid("", f"the body is not a JSON object: {error}") from None


def parse_array(name: str, text: msgspec.Raw) -> list[msgspec.Raw]:
    """Return the items of a JSON array, each as its own text.

    Args:
        name: the field, for the error.
        text: the JSON text.

    Raises:
        Problem: the text is not a JSON array.
    """
    try:
        return msgspec.json.decode(text, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _invalid(name, "must be an array") from None


def fill(message: Message, fields: Fields, *, path: str = "") -> None:
    """Set the fields of a message.

    Args:
        message: an empty message.
        fields: the JSON text of each field, by its name.
        path: the path of the message within the request, for errors.

    Raises:
        Problem: a field does not exist or has a value of another type.
    """
    known = _names(message.DESCRIPTOR.fields)
    for name, text in fields.items():
        place = f"{path}.{name}" if path else name
        field = known.get(name)
        if field is None:
            names = ", ".join(sorted({one.json_name for one in known.values()}))
            raise _invalid(place, f"is unknown; use {names}")
        if field.message_type is not None and field.message_type.full_name == DATA:
            getattr(message, field.name).json = bytes(text)
            continue
        try:
            value = msgspec.json.decode(text)
            json_format.ParseDict({field.json_name: value}, message)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _invalid(place, f"is not JSON: {error}") from None
        except (json_format.ParseError, TypeError, ValueError, RecursionError) as error:
            raise _invalid(place, _reason(error)) from None


def _names(fields: Iterable[Any]) -> dict[str, Any]:
    return {name: field for field in fields for name in (field.json_name, field.name)}


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or "is malformed"


def _invalid(field: str, description: str) -> Problem:
    return Problem(
        HTTPStatus.BAD_REQUEST,
        f"{field} {description}" if field else description,
        reason="INVALID_ARGUMENT",
        violations=[{"field": field, "description": description}] if field else (),
    )

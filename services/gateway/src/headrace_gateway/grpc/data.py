"""JSON documents in the two forms of the contract, `Data.value` and `Data.json`."""

from __future__ import annotations

from math import copysign
from typing import Any, Final

import msgspec
from google.protobuf import struct_pb2

from headrace.v1 import data_pb2
from headrace_core.domain.job import JsonText
from headrace_core.domain.limits import MAX_DOCUMENT_BYTES, MAX_DOCUMENT_DEPTH
from headrace_gateway.api.documents import Document

# The maximum size of a document that is sent as a Value; larger documents are sent as JSON text.
# Payloads and results within the default limits are smaller.
MAX_VALUE_BYTES: Final = 1536 * 1024

# A Value has at most six times the bytes of its JSON text: a digit and its comma are 2 bytes as
# text, and 11 as a Value.
_MAX_GROWTH: Final = 6

# A double represents every integer up to this one exactly.
_MAX_EXACT_INTEGER: Final = 2**53

_decode = msgspec.json.Decoder().decode


def read_data(data: data_pb2.Data) -> bytes | Document:
    """Return a document from a request: the text of `json`, or the content of `value`.

    A `value` becomes text with sorted keys, since protobuf maps have no order and the same content
    must become the same text. Its integral numbers become integers.

    Raises:
        ValueError: the Value is not a JSON document; the message is the description of a violation.
    """
    kind = data.WhichOneof("kind")
    if kind == "json":
        return data.json
    if kind == "value":
        content = _to_python(data.value)
        return Document(msgspec.json.encode(content, order="deterministic").decode(), content)
    raise ValueError("must contain `value` or `json`")


def write_data(text: JsonText, encoding: data_pb2.DataEncoding.ValueType) -> data_pb2.Data:
    """Return a stored document in the encoding, or only its size if it is too large to send."""
    if len(text) > MAX_DOCUMENT_BYTES // 4 and (size := len(text.encode())) > MAX_DOCUMENT_BYTES:
        return data_pb2.Data(omitted_bytes=size)
    if encoding == data_pb2.DATA_ENCODING_JSON:
        return data_pb2.Data(json=text.encode())
    data = data_pb2.Data()
    try:
        _write_value(data.value, _decode(text), MAX_DOCUMENT_DEPTH)
        is_large = len(text) * _MAX_GROWTH > MAX_VALUE_BYTES and (
            data.value.ByteSize() > MAX_VALUE_BYTES
        )
    except (msgspec.MsgspecError, RecursionError):
        is_large = True
    if is_large:
        # Sending the text is more useful than rejecting the whole job.
        data.value.string_value = text
    return data


def _to_python(value: struct_pb2.Value) -> Any:
    """Return a Value as Python objects. Protobuf limits its depth."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return _to_number(value.number_value)
        case "struct_value":
            return {key: _to_python(item) for key, item in value.struct_value.fields.items()}
        case "list_value":
            return [_to_python(item) for item in value.list_value.values]
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case _:
            raise ValueError("must not contain a Value without a kind")


def _to_number(number: float) -> int | float:
    if number.is_integer():
        if number == 0 and copysign(1, number) < 0:
            # An integer cannot represent negative zero.
            return number
        return int(number) if -_MAX_EXACT_INTEGER <= number <= _MAX_EXACT_INTEGER else number
    if number - number != 0:
        raise ValueError("must not contain NaN or Infinity: JSON has no such numbers")
    return number


def _write_value(value: struct_pb2.Value, content: Any, depth: int) -> None:
    """Write Python objects into a Value; levels deeper than `depth` become text."""
    kind = type(content)
    if kind is str:
        value.string_value = content
    elif kind is int:
        if -_MAX_EXACT_INTEGER <= content <= _MAX_EXACT_INTEGER:
            value.number_value = content
        else:
            value.string_value = str(content)
    elif kind is dict or kind is list:
        if depth == 0:
            value.string_value = msgspec.json.encode(content).decode()
        elif kind is dict:
            value.struct_value.SetInParent()
            fields = value.struct_value.fields
            for key, item in content.items():
                _write_value(fields[key], item, depth - 1)
        else:
            value.list_value.SetInParent()
            values = value.list_value.values
            for item in content:
                _write_value(values.add(), item, depth - 1)
    elif kind is float:
        value.number_value = content
    elif kind is bool:
        value.bool_value = content
    else:
        value.null_value = struct_pb2.NULL_VALUE

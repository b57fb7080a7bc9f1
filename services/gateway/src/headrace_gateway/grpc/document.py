"""JSON documents in their two forms on the wire, `Data.value` and `Data.json`."""

from __future__ import annotations

from math import copysign
from typing import Any, Final, NamedTuple

import msgspec
from google.protobuf import struct_pb2

from headrace.v1 import data_pb2
from headrace_core.domain.job import MAX_DOCUMENT_BYTES, JsonText
from headrace_gateway.calls.limits import MAX_DEPTH, MAX_VALUE_BYTES
from headrace_gateway.calls.nesting import TooDeep, depth_of, depth_of_text

# A Value takes at most six times the bytes of its JSON text: a number of one digit and its comma
# become eleven.
_MAY_GROW: Final = 6

# The integers that a double holds exactly, without gaps.
_EXACT: Final = 2**53

_decode = msgspec.json.Decoder().decode


class Document(NamedTuple):
    """A document as text, which is stored, and as Python's objects, which are validated."""

    text: JsonText
    content: Any


EMPTY: Final = Document("{}", {})


def read_data(data: data_pb2.Data) -> Document:
    """A document that a client sent.

    `json` keeps its text. A `value` is written with sorted keys, since protobuf maps have
    no order and the same content must be the same text; its integral numbers become integers.

    Raises:
        TooDeep: it is nested deeper than MAX_DEPTH.
        ValueError: it is no JSON document; the message says what it must be.
    """
    kind = data.WhichOneof("kind")
    if kind == "json":
        return read_json(data.json)
    if kind == "value":
        content = _plain(data.value)
        _check_depth(content)
        return Document(msgspec.json.encode(content, order="deterministic").decode(), content)
    raise ValueError("must hold `value` or `json`")


def canonical(text: JsonText) -> JsonText:
    """The one text of all documents with the same content.

    The order of keys, white space, escapes and the form of a number do not count: 1, 1.0 and 1e0
    are the same number, and so are 0 and -0.0, as in RFC 8785.
    """
    return _encode_sorted(_decode_integers(text)).decode()


def _integral(number: str) -> int | float:
    value = float(number)
    return int(value) if value.is_integer() else value


_decode_integers = msgspec.json.Decoder(float_hook=_integral).decode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


def write_data(text: JsonText, encoding: data_pb2.DataEncoding.ValueType) -> data_pb2.Data:
    """A stored document in the form that a client asked for, as far as a response has room."""
    if len(text) > MAX_DOCUMENT_BYTES // 4 and (size := len(text.encode())) > MAX_DOCUMENT_BYTES:
        return data_pb2.Data(omitted_bytes=size)
    if encoding == data_pb2.DATA_ENCODING_JSON:
        return data_pb2.Data(json=text.encode())
    data = data_pb2.Data()
    try:
        _fill(data.value, _decode(text), MAX_DEPTH)
        is_large = len(text) * _MAY_GROW > MAX_VALUE_BYTES and (
            data.value.ByteSize() > MAX_VALUE_BYTES
        )
    except (msgspec.MsgspecError, RecursionError):
        is_large = True
    if is_large:
        # A reader is better served with the text than with no job at all.
        data.value.string_value = text
    return data


def read_json(raw: bytes) -> Document:
    """A document that a client sent as its text, which is kept exactly.

    Raises:
        TooDeep: it is nested deeper than MAX_DEPTH.
        ValueError: it is no JSON document; the message says what it must be.
    """
    try:
        content = _decode(raw)
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("must be JSON in UTF-8") from None
    except msgspec.MsgspecError as error:
        raise ValueError(f"must be JSON: {error}") from None
    except RecursionError:
        raise TooDeep(depth_of_text(raw)) from None
    # Only what has that many brackets can be that deep.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(content)
    return Document(text, content)


def _check_depth(content: Any) -> None:
    depth = depth_of(content)
    if depth > MAX_DEPTH:
        raise TooDeep(depth)


def _plain(value: struct_pb2.Value) -> Any:
    """A Value as Python's objects. Its depth is bounded by the decoder of the message."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return _number(value.number_value)
        case "struct_value":
            return {key: _plain(item) for key, item in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case _:
            raise ValueError("must not hold a Value without a kind")


def _number(number: float) -> int | float:
    if number.is_integer():
        if number == 0 and copysign(1, number) < 0:
            # No integer has this value.
            return number
        return int(number) if -_EXACT <= number <= _EXACT else number
    if number - number != 0:
        raise ValueError("must not hold NaN or Infinity: JSON has no such numbers")
    return number


def _fill(value: struct_pb2.Value, content: Any, depth: int) -> None:
    """Writes Python's objects into a Value."""
    kind = type(content)
    if kind is str:
        value.string_value = content
    elif kind is int:
        if -_EXACT <= content <= _EXACT:
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
                _fill(fields[key], item, depth - 1)
        else:
            value.list_value.SetInParent()
            values = value.list_value.values
            for item in content:
                _fill(values.add(), item, depth - 1)
    elif kind is float:
        value.number_value = content
    elif kind is bool:
        value.bool_value = content
    else:
        value.null_value = struct_pb2.NULL_VALUE

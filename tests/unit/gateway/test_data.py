"""JSON documents in the two encodings of the contract."""

from __future__ import annotations

import json
import math

import msgspec
import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1.data_pb2 import (
    DATA_ENCODING_UNSPECIFIED,
    DATA_ENCODING_VALUE,
    Data,
)
from headrace.v1.job_service_pb2 import WatchJobResponse
from headrace_gateway.api.documents import Document, parse_json
from headrace_gateway.grpc.data import read_data, write_data

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


def value(content: object) -> struct_pb2.Value:
    return json_format.ParseDict(content, struct_pb2.Value())


def document_of(data: Data) -> Document:
    payload = read_data(data)
    return payload if isinstance(payload, Document) else parse_json(payload, "job.payload")


def encoded_value(text: str) -> object:
    return json_format.MessageToDict(write_data(text, DATA_ENCODING_UNSPECIFIED).value)


@pytest.mark.parametrize("data", [Data(), Data(value=struct_pb2.Value())])
def test_data_without_a_document_is_invalid(data: Data):
    with pytest.raises(ValueError, match=r"^must"):
        read_data(data)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_value_with_nan_or_infinity_is_invalid(number: float):
    inner = struct_pb2.Value(number_value=number)
    with pytest.raises(ValueError, match="NaN or Infinity"):
        document_of(Data(value=struct_pb2.Value(list_value=struct_pb2.ListValue(values=[inner]))))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3.0, "3"),
        (-0.0, "-0.0"),
        (2.5, "2.5"),
        (2.0**53, "9007199254740992"),
        (-(2.0**53), "-9007199254740992"),
        (1e300, "1e300"),
    ],
)
def test_value_with_integral_number_becomes_an_integer(number: float, text: str):
    assert document_of(Data(value=struct_pb2.Value(number_value=number))).text == text


def test_value_with_negative_zero_keeps_its_sign():
    for text in ("-0.0", "[-0.0]"):
        sent = Data()
        sent.value.CopyFrom(write_data(text, DATA_ENCODING_VALUE).value)
        read = read_data(sent)
        assert read.text == text
        encoded_value = write_data(read.text, DATA_ENCODING_VALUE).value
        number = (
            encoded_value.number_value
            if text == "-0.0"
            else encoded_value.list_value.values[0].number_value
        )
        assert (number, math.copysign(1, number)) == (0.0, -1.0)


def test_values_with_another_key_order_have_the_same_text():
    names = [f"key {n}" for n in range(50)]
    one = value({name: {"x": 1, "a": 2} for name in names})
    two = value({name: {"a": 2, "x": 1} for name in reversed(names)})
    assert document_of(Data(value=one)).text == document_of(Data(value=two)).text


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 10**30])
def test_integer_beyond_a_double_is_shown_as_a_string(number: int):
    assert encoded_value(f'{{"n": {number}}}') == {"n": str(number)}


@pytest.mark.parametrize("level", ["[{}]", '{{"a": {}}}'])
def test_levels_too_deep_for_protobuf_are_shown_as_text(level: str):
    text = "1"
    for _ in range(100):
        text = level.format(text)
    response = WatchJobResponse()
    response.events.add().progress.counters.CopyFrom(write_data(text, DATA_ENCODING_UNSPECIFIED))
    # A client can decode the message, and no level is lost.
    WatchJobResponse.FromString(response.SerializeToString())
    content = encoded_value(text)
    while not isinstance(content, str):
        content = content[0] if isinstance(content, list) else content["a"]
    assert json.loads(content) is not None


@pytest.mark.parametrize("text", ["1e999", "[" * 100_000 + "]" * 100_000, "oops"])
def test_stored_text_that_is_not_json_is_shown_as_text(text: str):
    assert encoded_value(text) == text


@given(JSON_VALUES)
def test_json_document_survives_a_round_trip(content: object):
    text = json.dumps(content)
    assert document_of(Data(json=text.encode())).content == content
    assert encoded_value(text) == json_format.MessageToDict(value(content))


@given(JSON_VALUES)
def test_value_document_survives_a_round_trip(content: object):
    document = document_of(Data(value=value(content)))
    assert msgspec.json.decode(document.text) == document.content == content

"""Documents: exact as JSON, faithful as a Value, refused when they are neither."""

from __future__ import annotations

import json
import math

import msgspec
import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1.data_pb2 import (
    DATA_ENCODING_JSON,
    DATA_ENCODING_UNSPECIFIED,
    DATA_ENCODING_VALUE,
    Data,
)
from headrace.v1.job_service_pb2 import WatchJobResponse
from headrace_gateway.calls.limits import MAX_DEPTH
from headrace_gateway.calls.nesting import TooDeep
from headrace_gateway.grpc.document import canonical, read_data, write_data

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
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


def shown(text: str) -> object:
    return json_format.MessageToDict(write_data(text, DATA_ENCODING_UNSPECIFIED).value)


@pytest.mark.parametrize(
    "text",
    [
        '{"b": 1,  "a": [1.0, 1e5, 12345678901234567890123]}',
        '"\\u0000"',
        '"\\u00e9 é 🏞"',
        "-0.0",
        " null\n",
        '{"a":1,"a":2}',
        "1" + "0" * 400,
    ],
)
def test_json_keeps_its_exact_text(text: str):
    document = read_data(Data(json=text.encode()))
    assert document.text == text
    assert write_data(document.text, DATA_ENCODING_JSON).json == text.encode()


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "must be JSON: Input data was truncated"),
        (b'{"a":', "must be JSON: Input data was truncated"),
        (b"{'a': 1}", "must be JSON: JSON is malformed"),
        (b"[1,]", "must be JSON: JSON is malformed"),
        (b"NaN", "must be JSON: JSON is malformed"),
        (b"\xef\xbb\xbf1", "must be JSON: JSON is malformed"),
        (b'"\x00"', "must be JSON: JSON is malformed"),
        (b'"\xff"', "must be JSON in UTF-8"),
        (b'"\xed\xa0\x80"', "must be JSON in UTF-8"),
        (b'"\\ud800"', "must be JSON"),
        (b'"\\ud800 x"', "must be JSON"),
        (b"1e999", "must be JSON: Number out of range"),
        (b"9" * 5000, "must be JSON: Integer value out of range"),
    ],
)
def test_what_is_no_json_is_refused_with_its_reason(raw: bytes, problem: str):
    with pytest.raises(ValueError, match=r"^must") as caught:
        read_data(Data(json=raw))
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("raw", "depth"),
    [
        (b"[" * 31 + b"]" * 31, 31),
        (b"[" * 5000 + b"]" * 5000, 5000),
        (b"[" * 200_000, 200_000),
        (b'{"a":' * 150 + b"1" + b"}" * 150, 150),
        (b'{"[[\\"{[":' * 5000 + b"1" + b"}" * 5000, 5000),
    ],
)
def test_depth_beyond_its_limit_is_counted(raw: bytes, depth: int):
    with pytest.raises(TooDeep) as caught:
        read_data(Data(json=raw))
    assert caught.value.depth == depth


@pytest.mark.parametrize(
    "text",
    [
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        json.dumps([[1]] * 500),
        json.dumps({"a": "[" * 500}),
    ],
)
def test_depth_counts_and_not_the_number_of_brackets(text: str):
    assert read_data(Data(json=text.encode())).text == text


@pytest.mark.parametrize("data", [Data(), Data(value=struct_pb2.Value())])
def test_data_without_a_document_is_refused(data: Data):
    with pytest.raises(ValueError, match=r"^must"):
        read_data(data)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_value_with_a_number_that_json_has_not_is_refused(number: float):
    inner = struct_pb2.Value(number_value=number)
    with pytest.raises(ValueError, match="NaN or Infinity"):
        read_data(Data(value=struct_pb2.Value(list_value=struct_pb2.ListValue(values=[inner]))))


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
def test_integral_numbers_of_a_value_become_integers(number: float, text: str):
    assert read_data(Data(value=struct_pb2.Value(number_value=number))).text == text


def test_negative_zero_of_a_value_is_shown_as_it_was_sent():
    for text in ("-0.0", "[-0.0]"):
        sent = Data()
        sent.value.CopyFrom(write_data(text, DATA_ENCODING_VALUE).value)
        read = read_data(sent)
        assert read.text == text
        shown = write_data(read.text, DATA_ENCODING_VALUE).value
        number = shown.number_value if text == "-0.0" else shown.list_value.values[0].number_value
        assert (number, math.copysign(1, number)) == (0.0, -1.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1,"b":2}', '{"b": 2, "a": 1}'),
        ('{"a": {"y": [], "x": null}}', '{\n\t"a":{"x":null,"y":[ ]}}'),
        ('"\\u00e9"', '"é"'),
        ('"\\ud83d\\ude00"', '"😀"'),
        ('"\\/"', '"/"'),
        ("1", "1.0"),
        ("1", "1e0"),
        ("100", "1E+2"),
        ("0.5", "5e-1"),
        ("0", "-0.0"),
        ("[9007199254740994]", "[9007199254740994.0]"),
        ("10000000000000000000000", "1e22"),
    ],
)
def test_documents_with_equal_content_have_one_canonical_text(one: str, other: str):
    assert canonical(one) == canonical(other)
    # The form of older versions is its own canonical form where it was deterministic.
    assert canonical(canonical(one)) == canonical(one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "true"),
        ("1", '"1"'),
        ("[1, 2]", "[2, 1]"),
        ("9007199254740993", "9007199254740992"),
        ("null", "{}"),
        ('"é"', '"e\u0301"'),
        ("0.1", "0.10000000000000002"),
    ],
)
def test_documents_with_other_content_have_other_canonical_texts(one: str, other: str):
    assert canonical(one) != canonical(other)


def test_the_same_value_is_the_same_text_in_whatever_order_it_was_built():
    names = [f"key {n}" for n in range(50)]
    one = value({name: {"x": 1, "a": 2} for name in names})
    two = value({name: {"a": 2, "x": 1} for name in reversed(names)})
    assert read_data(Data(value=one)).text == read_data(Data(value=two)).text


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 10**30])
def test_an_integer_that_a_double_cannot_hold_is_shown_as_a_string(number: int):
    assert shown(f'{{"n": {number}}}') == {"n": str(number)}


@pytest.mark.parametrize("level", ["[{}]", '{{"a": {}}}'])
def test_what_is_too_deep_for_protobuf_is_shown_as_its_text(level: str):
    text = "1"
    for _ in range(100):
        text = level.format(text)
    response = WatchJobResponse()
    response.events.add().progress.counters.CopyFrom(write_data(text, DATA_ENCODING_UNSPECIFIED))
    # A client's decoder takes it, and nothing is lost.
    WatchJobResponse.FromString(response.SerializeToString())
    content = shown(text)
    while not isinstance(content, str):
        content = content[0] if isinstance(content, list) else content["a"]
    assert json.loads(content) is not None


@pytest.mark.parametrize("text", ["1e999", "[" * 100_000 + "]" * 100_000, "oops"])
def test_a_stored_text_that_cannot_be_shown_is_shown_as_text(text: str):
    assert shown(text) == text


@given(PLAIN)
def test_a_document_goes_through_json_and_back(content: object):
    text = json.dumps(content)
    assert read_data(Data(json=text.encode())).content == content
    assert shown(text) == json_format.MessageToDict(value(content))


@given(PLAIN)
def test_a_document_goes_through_a_value_and_back(content: object):
    document = read_data(Data(value=value(content)))
    assert msgspec.json.decode(document.text) == document.content == content


@given(st.binary(max_size=60) | TEXT.map(str.encode))
def test_arbitrary_bytes_are_a_document_or_a_violation(raw: bytes):
    try:
        document = read_data(Data(json=raw))
    except ValueError:
        return
    assert document.text.encode() == raw
    assert json.loads(raw) == document.content

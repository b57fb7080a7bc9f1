"""JSON documents keep their text, have a bounded depth, and are compared by content."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.errors import DocumentTooDeep
from headrace_core.domain.limits import MAX_DOCUMENT_DEPTH
from headrace_gateway.api.documents import canonical_text, parse_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


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
def test_json_text_is_kept_exactly(text: str):
    document = parse_json(text.encode(), "job.payload")
    assert document.text == text


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
def test_text_that_is_not_json_is_invalid(raw: bytes, problem: str):
    with pytest.raises(ValueError, match=r"^must") as caught:
        parse_json(raw, "job.payload")
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
    with pytest.raises(DocumentTooDeep) as caught:
        parse_json(raw, "job.payload")
    assert (caught.value.field, caught.value.actual) == ("job.payload", depth)


@pytest.mark.parametrize(
    "text",
    [
        "[" * MAX_DOCUMENT_DEPTH + "]" * MAX_DOCUMENT_DEPTH,
        json.dumps([[1]] * 500),
        json.dumps({"a": "[" * 500}),
    ],
)
def test_depth_is_not_the_number_of_brackets(text: str):
    assert parse_json(text.encode(), "job.payload").text == text


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
def test_equal_documents_have_one_canonical_text(one: str, other: str):
    assert canonical_text(one) == canonical_text(other)
    # Canonical text does not change when it is canonicalized again.
    assert canonical_text(canonical_text(one)) == canonical_text(one)


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
def test_unequal_documents_have_unequal_canonical_texts(one: str, other: str):
    assert canonical_text(one) != canonical_text(other)


@given(st.binary(max_size=60) | TEXT.map(str.encode))
def test_arbitrary_bytes_are_a_document_or_invalid(raw: bytes):
    try:
        document = parse_json(raw, "job.payload")
    except ValueError:
        return
    assert document.text.encode() == raw
    assert json.loads(raw) == document.content

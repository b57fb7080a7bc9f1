"""HTTP bodies in any encoding fit into a JSON result."""

from __future__ import annotations

import base64
import gzip
import json
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_handlers.http_body import as_text, charset_of, decompressed
from headrace_handlers.result_size import cut_base64, cut_text


@pytest.mark.parametrize(
    ("body", "charset", "text"),
    [
        ("Grüße".encode(), None, "Grüße"),
        ("Grüße".encode("latin-1"), "ISO-8859-1", "Grüße"),
        ("Grüße".encode("utf-16"), "utf-16", "Grüße"),
        ("日本".encode("shift_jis"), "Shift_JIS", "日本"),
        ("€".encode("cp1252"), "windows-1252", "€"),
        ("Grüße".encode(), "us-ascii", "Grüße"),
        *(("Grüße".encode(), name, "Grüße") for name in ("idna", "undefined", "punycode")),
        *((rb"\x41", name, r"\x41") for name in ("unicode_escape", "raw_unicode_escape")),
        *((b"6869", name, "6869") for name in ("hex", "hex_codec", "rot13", "base64", "uu", "zip")),
        *((b"hi", name, "hi") for name in ("mbcs", "oem", "nonsense", "", "a.b", "-", "__init__")),
        (b"+2AA-", "utf-7", "+2AA-"),
    ],
)
def test_text_is_decoded_by_its_charset_or_as_utf_8(
    body: bytes, charset: str | None, text: str
) -> None:
    assert as_text(body, charset, is_cut=False) == (text, "text")


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (b"\xff", None),
        (b"\x89PNG\r\n\x1a\n\0", "latin-1"),
        (b"\xff", "ascii"),
        (b"a\0", None),
        (b"\xc3", None),
    ],
)
def test_binary_body_is_encoded_as_base64(body: bytes, charset: str | None) -> None:
    assert as_text(body, charset, is_cut=False) == (base64.b64encode(body).decode(), "base64")


def test_incomplete_last_character_of_cut_text_is_dropped() -> None:
    assert as_text("né".encode()[:-1], None, is_cut=True) == ("n", "text")


@given(st.binary(max_size=200), st.text(max_size=50) | st.sampled_from(["utf-16", "hz", "gbk"]))
def test_body_in_any_charset_is_valid_json(body: bytes, charset: str) -> None:
    text, encoding = as_text(body, charset, is_cut=False)
    assert json.loads(json.dumps(text).encode()) == text
    if encoding == "base64":
        assert base64.b64decode(text, validate=True) == body


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), st.integers(0, 200))
def test_text_is_cut_to_the_size_of_its_json(text: str, max_bytes: int) -> None:
    cut = cut_text(text, max_bytes)
    assert text.startswith(cut)
    assert len(msgspec.json.encode(cut)) <= max(max_bytes, 2)
    if cut != text:
        assert len(msgspec.json.encode(text[: len(cut) + 1])) > max_bytes


@given(st.binary(max_size=50), st.integers(0, 80))
def test_base64_is_cut_between_bytes(body: bytes, max_bytes: int) -> None:
    cut = cut_base64(base64.b64encode(body).decode(), max_bytes)
    assert len(cut) <= max(0, max_bytes - 2)
    assert body.startswith(base64.b64decode(cut, validate=True))


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("text/plain; charset=utf-8", "utf-8"),
        ('text/plain;charset="UTF-8"', "UTF-8"),
        ("text/plain; x=y; Charset=latin1; z", "latin1"),
        ("text/plain", None),
        ("", None),
        ("charset=" + "x" * 41, None),
        ("text/plain; charset=punycode''x", "punycode"),
        ("text/plain; charset*=utf-8''x", None),
    ],
)
def test_charset_is_read_from_the_content_type(content_type: str, charset: str | None) -> None:
    assert charset_of(content_type) == charset


def test_compressed_body_is_decompressed_up_to_the_limit() -> None:
    assert decompressed(gzip.compress(b"hello"), "gzip", limit=10) == (b"hello", False)
    assert decompressed(zlib.compress(b"hello"), "Deflate", limit=10) == (b"hello", False)
    assert decompressed(gzip.compress(b"x" * 10**7), "gzip", limit=10) == (b"x" * 10, True)
    assert decompressed(gzip.compress(b"hello")[:-9], "gzip", limit=10) == (b"hello", True)


@pytest.mark.parametrize("coding", ["br", "zstd", "identity", "", "gzip, gzip"])
def test_body_in_another_coding_is_not_decompressed(coding: str) -> None:
    assert decompressed(b"abc", coding, limit=10) is None


def test_body_with_a_false_coding_is_not_decompressed() -> None:
    assert decompressed(b"hello", "gzip", limit=10) is None
    assert decompressed(b"", "gzip", limit=10) is None

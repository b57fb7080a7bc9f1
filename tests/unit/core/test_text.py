"""Free text from handlers and callers is cleaned and truncated."""

from __future__ import annotations

import msgspec
import pytest

from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.job import JobError
from headrace_core.domain.text import clean_line, clean_text
from headrace_core.store.sql.documents import from_error, to_error

HUGE_TEXT = "x" * 100_000


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain Ünfall \U0001f600", "plain Ünfall \U0001f600"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("nul \x00, escape \x1b[2J, c1 \x9b", "nul ?, escape ?[2J, c1 ?"),
        ("no such file: \udcff.csv", "no such file: ?.csv"),
        ("12345678901", "123456789…"),
    ],
)
def test_unprintable_characters_are_replaced(text: str, cleaned: str) -> None:
    assert clean_text(text, 40 if text != "12345678901" else 10) == cleaned


def test_line_with_line_feeds_becomes_one_line() -> None:
    assert clean_line(" Bad\r\nName\x00\udcff ", 40) == "Bad Name??"
    assert clean_line(HUGE_TEXT, 10) == "x" * 9 + "…"


def test_job_error_with_hostile_texts_is_bounded() -> None:
    error = JobError(
        type=f"E\x00\n{HUGE_TEXT}",
        message=f"\udcff{HUGE_TEXT}",
        retryable=False,
        stack_trace=HUGE_TEXT,
    )
    assert error.type == "E? " + "x" * 196 + "…"
    assert len(error.message) == 2000
    assert error.message.startswith("?x")
    assert len(error.stack_trace) == 16 * 1024
    stored = from_error(error)
    assert stored is not None
    stored.encode()
    assert "\\u0000" not in stored


def test_job_error_without_texts_has_defaults() -> None:
    assert JobError(type=" ", message="", retryable=True).type == "Error"
    assert JobError(type="KeyError", message="", retryable=True).message == "KeyError"


def test_handler_description_with_hostile_text_is_bounded() -> None:
    description = HandlerSpec(type="t", description=f"a\x00\n{HUGE_TEXT}").description
    assert description.startswith("a? xxx")
    assert len(description) == 1000


def test_error_row_from_an_older_version_is_bounded() -> None:
    row = msgspec.json.encode({"type": HUGE_TEXT, "message": f"\x00{HUGE_TEXT}", "retryable": True})
    error = to_error(row.decode())
    assert error is not None
    assert (len(error.type), len(error.message)) == (200, 2000)
    assert error.message.startswith("?")

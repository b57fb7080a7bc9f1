"""Retry-After headers, in seconds or as a date, up to a maximum."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_handlers.http_client import MAX_WAIT, parse_retry_after, server_time

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        (None, None),
        ("0", timedelta()),
        (" 120 ", timedelta(minutes=2)),
        ("99999999999999999999", MAX_WAIT),
        ("Sun, 01 Mar 2026 12:00:30 GMT", timedelta(seconds=30)),
        ("Sun, 01 Mar 2026 12:00:30", timedelta(seconds=30)),
        ("Sunday, 01-Mar-26 12:00:30 GMT", timedelta(seconds=30)),
        ("Sun Mar  1 12:00:30 2026", timedelta(seconds=30)),
        ("Sun, 01 Mar 2026 11:00:00 GMT", timedelta()),
        ("Mon, 01 Mar 2027 12:00:00 GMT", MAX_WAIT),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
    ],
)
def test_retry_after_is_parsed(value: str | None, wait: timedelta | None) -> None:
    assert parse_retry_after(value, NOW) == wait


@given(st.text(max_size=60))
def test_retry_after_of_any_text_is_valid_or_none(value: str) -> None:
    wait = parse_retry_after(value, NOW)
    assert wait is None or timedelta() <= wait <= MAX_WAIT


def test_retry_after_date_uses_the_server_clock() -> None:
    headers = {"date": "Sun, 01 Mar 2020 12:00:00 GMT"}
    wait = parse_retry_after("Sun, 01 Mar 2020 12:00:30 GMT", server_time(headers))
    assert wait == timedelta(seconds=30)


@pytest.mark.parametrize("headers", [{}, {"date": ""}, {"date": "soon"}])
def test_response_without_a_date_uses_the_local_clock(headers: dict[str, str]) -> None:
    assert abs(server_time(headers) - datetime.now(UTC)) < timedelta(minutes=1)

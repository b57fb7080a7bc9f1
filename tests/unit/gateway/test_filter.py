"""The filter language of ListJobs, and its violations."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.errors import InvalidRequest
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.query import Comparison
from headrace_gateway.api.filter import parse_filter

ID = "0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15"


def compare(field: str, operator: str, value: object, key: str = "") -> Comparison:
    return Comparison(field=field, operator=operator, value=value, key=key)


@pytest.mark.parametrize(
    "text",
    [
        'queue = "UP PER"',
        'queue = "a\n"',
        'type != "Email"',
        'type = ""',
        'request_id = "a\nb"',
        f'request_id = "{"x" * 129}"',
        'labels.Team = "ml"',
        f"labels.{'a' * 64}:*",
        f'labels.team = "{"x" * 256}"',
        f"id = {ID.upper()}",
        f'batch_id = "{ID.replace("-", "")}----"',
    ],
)
def test_comparison_with_impossible_value_is_invalid(text: str):
    with pytest.raises(InvalidRequest):
        parse_filter(text)


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_empty_filter_matches_every_job(text: str):
    assert parse_filter(text) == ()


@pytest.mark.parametrize(
    ("text", "comparison"),
    [
        ("state = FAILED", compare("state", "=", JobState.FAILED)),
        ("state!=JOB_STATE_QUEUED", compare("state", "!=", JobState.QUEUED)),
        ('state = "FAILED"', compare("state", "=", JobState.FAILED)),
        ("type = square_sum", compare("type", "=", "square_sum")),
        ("type = 'a.b'", compare("type", "=", "a.b")),
        (r'labels.x = "say \"hi\" \\ "', compare("labels", "=", r'say "hi" \ ', "x")),
        ('request_id = "order 17"', compare("request_id", "=", "order 17")),
        (f"batch_id = {ID}", compare("batch_id", "=", UUID(ID))),
        (f'id != "{ID}"', compare("id", "!=", UUID(ID))),
        (f"id >= {ID}", compare("id", ">=", UUID(ID))),
        (f"worker_id={ID}", compare("worker_id", "=", UUID(ID))),
        ("priority>=-5", compare("priority", ">=", -5)),
        ("attempt < 3", compare("attempt", "<", 3)),
        (
            'create_time > "2026-11-01T00:00:00Z"',
            compare("create_time", ">", datetime(2026, 11, 1, tzinfo=UTC)),
        ),
        (
            'end_time <= "2026-11-01T02:00:00.123456789+02:00"',
            compare("end_time", "<=", datetime(2026, 11, 1, 0, 0, 0, 123456, tzinfo=UTC)),
        ),
        ('labels.team = "ml"', compare("labels", "=", "ml", "team")),
        ("labels.a.b-c != x", compare("labels", "!=", "x", "a.b-c")),
        ("labels.team:*", compare("labels", ":", "*", "team")),
        ('labels.team = ""', compare("labels", "=", "", "team")),
    ],
)
def test_comparison_is_parsed(text: str, comparison: Comparison):
    assert parse_filter(text) == ((comparison,),)


def test_filter_joins_clauses_by_and_alternatives_by_or():
    text = '(state = FAILED OR state = CANCELLED) AND labels.team = "ml" AND priority > 0'
    assert parse_filter(text) == (
        (compare("state", "=", JobState.FAILED), compare("state", "=", JobState.CANCELLED)),
        (compare("labels", "=", "ml", "team"),),
        (compare("priority", ">", 0),),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("stat = FAILED", "at character 1: unknown field 'stat'; use one of state, type, queue, "),
        ("state = FAILED AND nope = 1", "at character 20: unknown field 'nope'; use one of"),
        ("labels = x", "at character 1: unknown field 'labels'; use one of"),
        ("state = BROKEN", "at character 9: state must be compared with one of SCHEDULED, QUEUED"),
        ("state > FAILED", "at character 7: expected one of = !="),
        ("state", "at the end: expected one of = !="),
        ("state =", "at the end: state must be compared with one of"),
        ("state = FAILED queue = x", "at character 16: expected AND or the end"),
        ("state = FAILED AND", "at the end: expected a field: state, type"),
        ("state = FAILED OR state = QUEUED", "at character 16: alternatives need parentheses"),
        ("(state = FAILED AND state = QUEUED)", "at character 17: expected OR or )"),
        ("(state = FAILED OR type = x)", "at character 20: alternatives must have the same field"),
        ("(labels.a = x OR labels.b = x)", "at character 18: alternatives must have the same"),
        ("(state = FAILED", "at the end: expected OR or )"),
        ("()", "at character 2: expected a field"),
        ("((state = FAILED))", "at character 2: expected a field"),
        ("AND", "at character 1: expected a field"),
        ("priority = high", "at character 12: priority must be compared with a 16-bit integer"),
        ("priority = 99999", "at character 12: priority must be compared with a 16-bit integer"),
        (
            "attempt = 99999999999",
            "at character 11: attempt must be compared with a 32-bit integer",
        ),
        ('attempt = "1"', "at character 11: attempt must be compared with a 32-bit integer"),
        ("id = 17", "at character 6: id must be compared with a UUID"),
        ('create_time > "yesterday"', "at character 15: create_time must be compared with an RFC"),
        ("create_time > 2026-11-01", "at character 15: create_time must be compared with an RFC"),
        ('create_time > "2026-11-01"', "at character 15: create_time must be compared with"),
        ('create_time > "2026-11-01T00:00:00"', "at character 15: create_time must be"),
        ('create_time > "2026-02-30T00:00:00Z"', "at character 15: create_time must be"),
        ('create_time > "0001-01-01T00:00:00+14:00"', "at character 15: create_time must be"),
        ('create_time = "2026-11-01T00:00:00Z"', "at character 13: expected one of < <= > >="),
        ("labels.a: x", "at character 11: expected * after labels.a:"),
        ("labels.a < 1", "at character 10: expected one of = != :"),
        ("labels.a = *", "at character 12: labels.a must be compared with a string"),
        ('type = "x', "at character 8: the string has no closing quote"),
        ('type = "x\0y"', "at character 8: a string must not contain NUL"),
        ("type = é", "at character 8: strings need double quotes"),
        ("type ~ x", "at character 6: strings need double quotes"),
        (" AND ".join(["priority = 1"] * 51), "at character 851: at most 50 comparisons"),
        ("x" * 5000, "must have at most 4096 characters"),
    ],
)
def test_violation_names_its_position(text: str, problem: str):
    with pytest.raises(InvalidRequest) as caught:
        parse_filter(text)
    (violation,) = caught.value.violations
    assert violation.field == "filter"
    assert violation.description.startswith(problem)


def test_unknown_field_lists_the_known_ones():
    with pytest.raises(InvalidRequest) as caught:
        parse_filter("x=1")
    for field in (
        *("state", "type", "queue", "request_id", "batch_id", "id", "worker_id", "priority"),
        *("attempt", "create_time", "schedule_time", "start_time", "end_time", "labels.KEY"),
    ):
        assert field in caught.value.violations[0].description


_FILTER_PIECES = st.sampled_from(
    [
        *("state", "type", "id", "priority", "create_time", "labels.a", "labels.", ".", "labels"),
        *("=", "!=", "<", "<=", ">", ">=", ":", "*", "(", ")", "AND", "OR", "NOT", "-", "+"),
        *("FAILED", "x", "1", "-1", "9" * 30, '"', "'", "\\", '"a"', '"2026-11-01T00:00:00Z"'),
        *('"9999-12-31T23:59:60-23:59"', '"0000-01-01T00:00:00Z"', ID, " ", "\0", "\ud800", "🏞"),
    ]
)


@given(st.text(st.characters()) | st.lists(_FILTER_PIECES, max_size=15).map(" ".join))
def test_arbitrary_text_is_a_query_or_a_violation(text: str):
    # Any other exception fails the test.
    with suppress(InvalidRequest):
        parse_filter(text)

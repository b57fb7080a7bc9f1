"""Rules for values that occur in several requests."""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from headrace_core.domain.errors import InvalidRequest
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.query import JobFilter
from headrace_gateway.api.validation import (
    Violations,
    call_deadline,
    check_idle_interval,
    check_request_id,
    job_filter,
    limit_after_seq,
    page_limit,
    parse_job_id,
)
from headrace_gateway.calls.authenticate import ANONYMOUS
from headrace_gateway.calls.call import Call

JOB_ID = "0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15"


def fields(found: Violations) -> list[str]:
    return [violation.field for violation in found]


def new_filter(found: Violations, **values: object) -> JobFilter:
    empty = {"queues": (), "types": (), "states": (), "labels": {}, "batch_id": "", "job_ids": ()}
    return job_filter(**{**empty, **values}, found=found)


@pytest.mark.parametrize("request_id", [None, "a", "order 17/é", "x" * 128])
def test_printable_request_id_is_valid(request_id: str | None):
    found = Violations()
    check_request_id(request_id, found)
    assert not found


@pytest.mark.parametrize("request_id", ["x" * 129, "a\0", "a\nb", "\x7f"])
def test_long_or_unprintable_request_id_is_invalid(request_id: str):
    found = Violations()
    check_request_id(request_id, found)
    assert fields(found) == ["request_id"]


@pytest.mark.parametrize("remaining", [0.0, 1e9, 1e30, float("inf")])
def test_call_deadline_stays_within_the_calendar(remaining: float):
    found = Violations()
    call = Call(
        correlation_id="c",
        principal=ANONYMOUS,
        tenant=DEFAULT_TENANT,
        deadline=time.monotonic() + remaining,
    )
    deadline = call_deadline(call, True, found)
    assert not found
    assert deadline is not None
    assert timedelta() <= deadline <= timedelta(days=3650)


def test_canonical_job_id_is_parsed():
    job_id = uuid4()
    assert parse_job_id(str(job_id), Violations()) == job_id


@pytest.mark.parametrize(
    "job_id",
    [
        *("", "17", UUID(int=17).hex, f"{{{UUID(int=17)}}}", "z" * 36, "é" * 36),
        *(JOB_ID.upper(), JOB_ID + "\n", " " + JOB_ID, f"urn:uuid:{JOB_ID}"),
        *(JOB_ID.replace("-", "") + "----", JOB_ID.replace("-7c3d", "7c3d-")),
        JOB_ID.replace("0199", "٠199"),
    ],
)
def test_noncanonical_job_id_is_invalid(job_id: str):
    found = Violations()
    parse_job_id(job_id, found)
    assert fields(found) == ["job_id"]


@pytest.mark.parametrize(("size", "limit"), [(0, 100), (1, 1), (1000, 1000), (2**31 - 1, 1000)])
def test_page_size_is_bounded(size: int, limit: int):
    found = Violations()
    assert page_limit(size, found) == limit
    assert not found


def test_negative_numbers_are_invalid():
    found = Violations()
    page_limit(-1, found)
    limit_after_seq(-1, found)
    assert fields(found) == ["page_size", "after_seq"]


def test_event_number_after_all_events_is_valid():
    assert limit_after_seq(2**63 - 1, Violations()) == 2**31 - 1


@pytest.mark.parametrize("seconds", [0.0, 0.999, 60.001, -5.0, float("nan")])
def test_idle_interval_out_of_range_is_invalid(seconds: float):
    found = Violations()
    check_idle_interval(seconds, found)
    assert fields(found) == ["idle_interval"]


def test_violations_are_raised_together():
    found = Violations()
    found.check()
    found.note("a", "must be b")
    found.note("c", "must be d")
    with pytest.raises(InvalidRequest, match="a: must be b; c: must be d"):
        found.check()


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"queues": ["ok", "UP PER"]}, "filter.queues[1]"),
        ({"queues": ["a\n"]}, "filter.queues[0]"),
        ({"queues": [""]}, "filter.queues[0]"),
        ({"types": ["Email"]}, "filter.types[0]"),
        ({"types": ["a\0"]}, "filter.types[0]"),
        ({"labels": {"K\n": "x"}}, 'filter.labels["K\\n"]'),
        ({"labels": {"team\n": "x"}}, 'filter.labels["team\\n"]'),
        ({"labels": {"team": "x" * 256}}, 'filter.labels["team"]'),
        ({"labels": {"team": "a\0"}}, 'filter.labels["team"]'),
        ({"batch_id": JOB_ID.upper()}, "filter.batch_id"),
        ({"job_ids": [JOB_ID, JOB_ID.upper()]}, "filter.job_ids[1]"),
    ],
)
def test_filter_with_invalid_value_reports_its_path(values: dict[str, object], path: str):
    found = Violations()
    new_filter(found, **values)
    assert fields(found) == [path]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"queues": ["q"] * 1001}, "filter.queues"),
        ({"types": ["t"] * 1001}, "filter.types"),
        ({"states": [JobState.QUEUED] * 1001}, "filter.states"),
        ({"labels": {str(number): "" for number in range(1001)}}, "filter.labels"),
        ({"job_ids": ["x"] * 10_001}, "filter.job_ids"),
    ],
)
def test_filter_with_too_many_values_is_invalid(values: dict[str, object], field: str):
    found = Violations()
    assert new_filter(found, **values) == JobFilter()
    assert fields(found) == [field]
    assert "must contain at most" in found[0].description

"""The rules for submitted jobs, applied to domain values."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headrace_core.domain.errors import DocumentTooDeep, LimitExceeded
from headrace_core.domain.job import JobSpec
from headrace_core.domain.limits import FIRST_TIME, LAST_TIME
from headrace_core.domain.retry import RetryOverrides
from headrace_core.runtime.settings import Settings
from headrace_gateway.api.documents import EMPTY_OBJECT, Document, Payload
from headrace_gateway.api.job_rules import check_batch_size, check_payload, check_spec
from headrace_gateway.api.validation import Violations

SETTINGS = Settings(max_payload_bytes=1000, max_labels=3, max_batch_jobs=10)
TICK = timedelta(microseconds=1)


def violations(path: str = "job", **fields: Any) -> list[str]:
    found = Violations()
    check_spec(JobSpec(**{"type": "email", **fields}), path, found, SETTINGS)
    return [violation.field for violation in found]


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        *({"type": name, "queue": name} for name in ("a", "7zip", "a-b_c.d", "a" * 100)),
        *({"priority": priority} for priority in (-100, 0, 100)),
        {"labels": {"team": "ml", "a.b-c_d": ""}},
        {"schedule_time": FIRST_TIME, "deadline": LAST_TIME},
        {"timeout": TICK},
        {"timeout": timedelta(days=7)},
        {"retry": RetryOverrides(max_attempts=100, multiplier=1.0, jitter=0.0)},
        {"retry": RetryOverrides(initial_backoff=timedelta(), max_backoff=timedelta(days=7))},
        {"retry": RetryOverrides(non_retryable_error_types=("TIMEOUT",) * 32)},
    ],
)
def test_spec_within_its_bounds_is_valid(fields: dict[str, Any]):
    assert violations(**fields) == []


@pytest.mark.parametrize("name", ["Email", "-a", "_a", ".a", "a b", "a\n", "a\0", "é", "a" * 101])
def test_malformed_name_is_invalid(name: str):
    assert violations(type=name, queue=name) == ["job.type", "job.queue"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"type": ""}, "job.type"),
        ({"priority": 101}, "job.priority"),
        ({"priority": -101}, "job.priority"),
        ({"labels": {"Team": "x"}}, 'job.labels["Team"]'),
        ({"labels": {"": "x"}}, 'job.labels[""]'),
        ({"labels": {"a" * 64: "x"}}, f'job.labels["{"a" * 64}"]'),
        ({"labels": {"team": "x" * 256}}, 'job.labels["team"]'),
        ({"labels": {"team": "a\0b"}}, 'job.labels["team"]'),
        ({"schedule_time": FIRST_TIME - TICK}, "job.schedule_time"),
        ({"schedule_time": LAST_TIME + TICK}, "job.schedule_time"),
        ({"deadline": FIRST_TIME - TICK}, "job.deadline"),
        ({"deadline": LAST_TIME + TICK}, "job.deadline"),
        ({"schedule_time": at(100), "deadline": at(100)}, "job.deadline"),
        ({"schedule_time": LAST_TIME + TICK, "deadline": at(100)}, "job.schedule_time"),
        ({"timeout": timedelta()}, "job.timeout"),
        ({"timeout": -TICK}, "job.timeout"),
        ({"timeout": timedelta(days=7) + TICK}, "job.timeout"),
    ],
)
def test_field_out_of_its_range_is_invalid(fields: dict[str, Any], path: str):
    assert violations(**fields) == [path]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        *(({"max_attempts": value}, "max_attempts") for value in (0, 101, -1)),
        *(({"multiplier": value}, "multiplier") for value in (0.9, 100.1, math.nan, math.inf)),
        *(({"jitter": value}, "jitter") for value in (-0.1, 1.1, math.nan)),
        ({"initial_backoff": -TICK}, "initial_backoff"),
        ({"max_backoff": timedelta(days=8)}, "max_backoff"),
        (
            {"initial_backoff": timedelta(seconds=2), "max_backoff": timedelta(seconds=1)},
            "max_backoff",
        ),
        *(
            ({"non_retryable_error_types": types}, "non_retryable_error_types")
            for types in (("",), ("a\0",), ("a" * 201,), ("a",) * 33)
        ),
    ],
)
def test_retry_out_of_its_range_is_invalid(fields: dict[str, Any], name: str):
    assert violations(retry=RetryOverrides(**fields)) == [f"job.retry_policy.{name}"]


def test_all_violations_are_reported_with_their_paths():
    assert violations(
        "jobs[3]",
        type="",
        queue="No",
        priority=1000,
        labels={"X": "\0"},
        timeout=timedelta(seconds=-1),
        deadline=LAST_TIME + TICK,
        retry=RetryOverrides(max_attempts=0, jitter=2.0),
    ) == [
        "jobs[3].type",
        "jobs[3].queue",
        "jobs[3].priority",
        "jobs[3].deadline",
        "jobs[3].timeout",
        'jobs[3].labels["X"]',
        'jobs[3].labels["X"]',
        "jobs[3].retry_policy.max_attempts",
        "jobs[3].retry_policy.jitter",
    ]


def test_too_many_labels_exceed_their_limit():
    with pytest.raises(LimitExceeded) as caught:
        violations(labels={f"k{n}": "" for n in range(4)})
    error = caught.value
    assert (error.field, error.limit) == ("job.labels", "HEADRACE_MAX_LABELS")
    assert (error.maximum, error.actual) == (3, 4)


def check(given: bytes | Document) -> tuple[Payload, Violations]:
    found = Violations()
    return check_payload(given, "job.payload", found, SETTINGS), found


@pytest.mark.parametrize(
    ("given", "document"),
    [
        (b'{"a": [1.0]}', Document('{"a": [1.0]}', {"a": [1.0]})),
        (EMPTY_OBJECT, EMPTY_OBJECT),
        # Exactly as large as the limit.
        (b'"' + b"x" * 998 + b'"', Document('"' + "x" * 998 + '"', "x" * 998)),
    ],
)
def test_payload_becomes_a_document(given: bytes | Document, document: Document):
    assert check(given) == (document, [])


@pytest.mark.parametrize("given", [b"", b"oops", b'"\xff"'])
def test_payload_that_is_not_json_is_invalid(given: bytes):
    document, found = check(given)
    assert document is None
    assert [violation.field for violation in found] == ["job.payload"]


@pytest.mark.parametrize(
    "given",
    [
        b'"' + b"x" * 999 + b'"',
        # The size is checked before parsing.
        b"[" * 1001,
        Document('"' + "x" * 999 + '"', "x" * 999),
        # 500 characters, 1000 bytes and the quotes.
        Document('"' + "é" * 500 + '"', "é" * 500),
    ],
)
def test_oversized_payload_exceeds_its_limit(given: bytes | Document):
    with pytest.raises(LimitExceeded) as caught:
        check(given)
    error = caught.value
    assert (error.field, error.limit) == ("job.payload", "HEADRACE_MAX_PAYLOAD_BYTES")
    assert (error.maximum, error.actual > 1000) == (1000, True)


@pytest.mark.parametrize("parsed", [False, True])
def test_deep_payload_exceeds_its_limit(parsed: bool):
    text = "[" * 31 + "]" * 31
    given = Document(text, json.loads(text)) if parsed else text.encode()
    with pytest.raises(DocumentTooDeep) as caught:
        check(given)
    assert (caught.value.field, caught.value.actual) == ("job.payload", 31)


def test_batch_without_jobs_or_with_too_many_is_invalid():
    found = Violations()
    check_batch_size([], found, SETTINGS)
    assert [violation.field for violation in found] == ["jobs"]
    with pytest.raises(LimitExceeded, match="HEADRACE_MAX_BATCH_JOBS"):
        check_batch_size([None] * 11, found, SETTINGS)

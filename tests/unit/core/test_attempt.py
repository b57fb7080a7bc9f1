"""Attempts: their keys, and the fields that each end and each report require."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.attempt import AttemptEnd, AttemptKey, AttemptReport
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import JobError, Progress
from headrace_core.domain.lifecycle import EventType, JobState, sources

KEY = AttemptKey(JobId(uuid7()), 1)
FIELDS: dict[str, Any] = {
    "result": "{}",
    "error": JobError(type="ValueError", message="it broke", retryable=True),
    "backoff": timedelta(seconds=1),
}
REQUIRED_FIELDS = {
    EventType.SUCCEEDED: {"result"},
    EventType.RETRY_SCHEDULED: {"error", "backoff"},
    EventType.FAILED: {"error"},
    EventType.EXPIRED: {"error"},
    EventType.INTERRUPTED: set(),
    EventType.WORKER_LOST: {"error"},
    EventType.CANCELLED: set(),
}


@given(st.uuids(), st.integers(1, 2**31 - 1))
def test_key_survives_a_round_trip_through_text(job_id: JobId, attempt: int) -> None:
    key = AttemptKey(job_id, attempt)
    assert AttemptKey.parse(str(key)) == key


@pytest.mark.parametrize(
    "attempt", ["", ":", ":1:1", ":one", ":0", ":-1", f":{2**31}", ":99999999999999999999", ":1.0"]
)
def test_key_with_an_impossible_number_is_rejected(attempt: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        AttemptKey.parse(f"{uuid7()}{attempt}")


@given(st.text())
def test_key_from_any_text_is_rejected_or_valid(name: str) -> None:
    try:
        key = AttemptKey.parse(name)
    except ValueError:
        return
    assert key.attempt >= 1


@pytest.mark.parametrize("event", EventType)
def test_end_requires_exactly_the_fields_of_its_event(event: EventType) -> None:
    for size in range(4):
        for names in itertools.combinations(FIELDS, size):
            fields = {name: FIELDS[name] for name in names}
            if REQUIRED_FIELDS.get(event) == set(names):
                AttemptEnd(key=KEY, event=event, **fields)
            else:
                with pytest.raises(ValueError, match="cannot end"):
                    AttemptEnd(key=KEY, event=event, **fields)


def test_each_end_is_a_transition_from_running() -> None:
    assert all(JobState.RUNNING in sources(event) for event in REQUIRED_FIELDS)


@pytest.mark.parametrize("retryable", [True, False])
def test_lost_worker_fails_the_job_without_crash_budget(retryable: bool) -> None:
    error = JobError(type="WORKER_LOST", message="SIGSEGV", retryable=retryable)
    end = AttemptEnd(key=KEY, event=EventType.WORKER_LOST, error=error)
    assert end.state is (JobState.QUEUED if retryable else JobState.FAILED)


def test_report_with_both_or_no_fields_is_rejected() -> None:
    progress = Progress(fraction=0.5)
    AttemptReport(key=KEY, progress=progress)
    AttemptReport(key=KEY, output="1")
    both: dict[str, Any] = {"progress": progress, "output": "1"}
    for fields in ({}, both):
        with pytest.raises(ValueError, match="either"):
            AttemptReport(key=KEY, **fields)

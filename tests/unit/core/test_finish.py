"""The end of an attempt says what its event needs, and nothing else."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest

from headrace_core.domain.finish import Finish, Report
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import JobError, Progress
from headrace_core.domain.lifecycle import EventType, JobState, sources

SAYABLE: dict[str, Any] = {
    "result": "{}",
    "error": JobError(type="ValueError", message="it broke", retryable=True),
    "backoff": timedelta(seconds=1),
}
SAYS = {
    EventType.SUCCEEDED: {"result"},
    EventType.RETRY_SCHEDULED: {"error", "backoff"},
    EventType.FAILED: {"error"},
    EventType.EXPIRED: {"error"},
    EventType.INTERRUPTED: set(),
    EventType.WORKER_LOST: {"error"},
    EventType.CANCELLED: set(),
}


@pytest.mark.parametrize("event", EventType)
def test_an_attempt_ends_in_seven_ways_each_with_what_it_has_to_say(event: EventType) -> None:
    for size in range(4):
        for said in itertools.combinations(SAYABLE, size):
            fields = {name: SAYABLE[name] for name in said}
            if SAYS.get(event) == set(said):
                Finish(job_id=JobId(uuid7()), attempt=1, event=event, **fields)
            else:
                with pytest.raises(ValueError, match="cannot end"):
                    Finish(job_id=JobId(uuid7()), attempt=1, event=event, **fields)


def test_all_of_them_lead_out_of_running() -> None:
    assert all(JobState.RUNNING in sources(event) for event in SAYS)


@pytest.mark.parametrize("retryable", [True, False])
def test_a_lost_worker_fails_the_job_when_its_budget_is_spent(retryable: bool) -> None:
    error = JobError(type="WORKER_LOST", message="SIGSEGV", retryable=retryable)
    finish = Finish(job_id=JobId(uuid7()), attempt=1, event=EventType.WORKER_LOST, error=error)
    assert finish.state is (JobState.QUEUED if retryable else JobState.FAILED)


def test_a_report_is_progress_or_output_and_not_both() -> None:
    progress = Progress(fraction=0.5)
    Report(job_id=JobId(uuid7()), attempt=1, progress=progress)
    Report(job_id=JobId(uuid7()), attempt=1, output="1")
    for fields in ({}, {"progress": progress, "output": "1"}):
        with pytest.raises(ValueError, match="either"):
            Report(job_id=JobId(uuid7()), attempt=1, **fields)

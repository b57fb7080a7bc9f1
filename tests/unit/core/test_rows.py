"""Values survive a round trip through their rows."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import Job, JobError, JobSpec, Progress
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.limits import MAX_DURATION
from headrace_core.domain.retry import RetryOverrides, RetryPolicy
from headrace_core.store.sql.documents import (
    from_error,
    from_overrides,
    from_policy,
    from_progress,
    to_error,
    to_labels,
    to_overrides,
    to_policy,
    to_progress,
)
from headrace_core.store.sql.rows import (
    SPEC_TYPES,
    InitialValues,
    created_job,
    job_columns,
    spec_values,
)
from headrace_core.store.sql.tables import jobs

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
waits = st.timedeltas(timedelta(), MAX_DURATION / 2)
fractions = st.floats(0, 1)
multipliers = st.floats(1, 100)
attempts = st.integers(1, 100)
error_types = st.lists(st.sampled_from(["ValueError", "TIMEOUT", "ä"]), max_size=3).map(tuple)
counters = st.dictionaries(texts, st.integers() | st.floats(allow_nan=False, allow_infinity=False))

overrides = st.builds(
    RetryOverrides,
    max_attempts=st.none() | attempts,
    initial_backoff=st.none() | waits,
    max_backoff=st.none() | waits,
    multiplier=st.none() | multipliers,
    jitter=st.none() | fractions,
    non_retryable_error_types=st.none() | error_types,
)
policies = st.builds(
    lambda shorter, more, **rest: RetryPolicy(
        initial_backoff=shorter, max_backoff=shorter + more, **rest
    ),
    waits,
    waits,
    max_attempts=attempts,
    multiplier=multipliers,
    jitter=fractions,
    non_retryable_error_types=error_types,
)
errors = st.builds(JobError, type=texts, message=texts, retryable=st.booleans())
progresses = st.builds(
    Progress, fraction=fractions, message=texts, counters=counters.map(json.dumps)
)


@given(overrides)
def test_retry_overrides_survive_a_round_trip(retry: RetryOverrides) -> None:
    assert to_overrides(from_overrides(retry)) == retry


def test_empty_retry_overrides_are_stored_as_null() -> None:
    assert from_overrides(RetryOverrides()) is None
    assert to_overrides(None) == RetryOverrides()


@given(policies)
def test_policy_survives_a_round_trip(policy: RetryPolicy) -> None:
    assert to_policy(from_policy(policy)) == policy


@given(st.none() | errors)
def test_error_survives_a_round_trip(error: JobError | None) -> None:
    assert to_error(from_error(error)) == error


@given(st.none() | progresses)
def test_progress_round_trip_keeps_the_counter_text(progress: Progress | None) -> None:
    assert to_progress(from_progress(progress)) == progress


@given(st.dictionaries(texts, texts))
def test_labels_survive_a_round_trip(labels: dict[str, str]) -> None:
    assert to_labels(json.dumps(labels)) == labels


def test_text_with_lone_surrogates_is_stored_without_them() -> None:
    # The message of an OSError about a file with an undecodable name.
    message = "no such file: \udcff.csv"
    error = to_error(from_error(JobError(type="OSError", message=message, retryable=True)))
    assert error == JobError(type="OSError", message="no such file: ?.csv", retryable=True)
    progress = to_progress(from_progress(Progress(fraction=0.5, message=message)))
    assert progress == Progress(fraction=0.5, message="no such file: ?.csv")


@pytest.mark.parametrize("full", [False, True])
def test_each_column_is_qualified_with_its_table(full: bool) -> None:
    columns = job_columns(full=full, table="j")
    # Names that are not keywords, functions, types, quoted, or given after AS.
    names = re.sub(r"'[^']*'|AS \w+|::\w+|\w+\(|\b[A-Z]+\b|\b\d+\b", "", columns)
    assert all(name == "j" or f"j.{name}" in names for name in re.findall(r"\w+", names))


def test_oversized_progress_from_an_older_version_is_cut() -> None:
    stored = from_progress(
        Progress(
            fraction=0.5, message="ä" * 50_000, counters=json.dumps({"n" * 70_000: 1, "b": "x"})
        )
    )
    assert to_progress(stored) == Progress(fraction=0.5, message="ä" * 2048, counters="{}")


def test_unknown_field_from_a_newer_version_is_ignored() -> None:
    assert to_overrides('{"max_attempts": 4, "mood": "calm"}') == RetryOverrides(max_attempts=4)
    assert to_policy('{"max_attempts": 4, "mood": "calm"}') == RetryPolicy(max_attempts=4)


def test_each_field_of_a_job_is_a_selected_column() -> None:
    names = {field.name for field in fields(Job)} - {"unreadable", "withheld"}
    assert names <= set(jobs.c.keys())
    columns = job_columns(full=True)
    assert {name for name in names if not re.search(rf"\b{name}\b", columns)} == set()


def test_each_field_of_a_spec_has_a_parameter() -> None:
    spec = JobSpec(type="t", labels={"a": "b"}, retry=RetryOverrides(max_attempts=2))
    values = dict(zip(SPEC_TYPES, spec_values(spec), strict=True))
    assert values.keys() == {field.name for field in fields(JobSpec)}
    assert (values["type"], values["priority"]) == ("t", 0)
    assert (values["labels"], values["retry"]) == ('{"a":"b"}', '{"max_attempts":2}')


def test_new_job_has_each_field_of_its_spec() -> None:
    now = datetime.now(UTC)
    spec = JobSpec(
        type="t",
        queue="q",
        priority=3,
        labels={"a": "b"},
        timeout=timedelta(1),
        deadline=now,
        retry=RetryOverrides(max_attempts=2),
    )
    start = InitialValues(JobState.QUEUED, now, now, now)
    job = created_job(JobId(uuid7()), spec, start, tenant="one")
    for field in {field.name for field in fields(JobSpec)} & set(Job.__slots__):
        assert getattr(job, field) == getattr(spec, field) != getattr(JobSpec(type=""), field)

"""Filters in their stored form."""

from __future__ import annotations

import json

from headrace_core.domain.ids import BatchId, JobId, uuid7
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.query import JobFilter
from headrace_core.store.subscriptions import read_filter, write_filter

FULL_FILTER = JobFilter(
    queues=frozenset(["b", "a"]),
    types=frozenset(["t"]),
    states=frozenset([JobState.QUEUED, JobState.FAILED]),
    labels={"team": "ml", "env": ""},
    batch_id=BatchId(uuid7()),
    job_ids=frozenset([JobId(uuid7()), JobId(uuid7())]),
)


def test_filter_survives_a_round_trip():
    assert read_filter(write_filter(FULL_FILTER)) == FULL_FILTER


def test_filter_without_fields_is_empty():
    assert write_filter(JobFilter()) == "{}"
    assert read_filter("{}") == JobFilter()


def test_empty_filter_field_is_not_stored():
    assert json.loads(write_filter(JobFilter(labels={"team": ""}))) == {"labels": {"team": ""}}


def test_equal_filters_have_equal_text():
    text = write_filter(FULL_FILTER)
    stored = json.loads(text)
    assert stored["queues"] == ["a", "b"]
    assert stored["states"] == ["failed", "queued"]
    assert stored["job_ids"] == sorted(stored["job_ids"])
    again = JobFilter(
        queues=frozenset(["a", "b"]),
        types=FULL_FILTER.types,
        states=frozenset([JobState.FAILED, JobState.QUEUED]),
        labels={"env": "", "team": "ml"},
        batch_id=FULL_FILTER.batch_id,
        job_ids=frozenset(sorted(FULL_FILTER.job_ids, reverse=True)),
    )
    assert write_filter(again) == text

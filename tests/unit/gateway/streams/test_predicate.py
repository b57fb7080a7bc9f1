"""Compiled filters match as the contract defines. A matching event has exactly one filter key."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.ids import BatchId, JobId
from headrace_core.domain.job import JobEvent
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.query import JobFilter
from headrace_gateway.streams.routing import compile_filter, keys_of_event, keys_of_filter

# A small choice, so that filters often match events.
VALUES = {
    "job_id": [JobId(UUID(int=n)) for n in range(3)],
    "batch_id": [BatchId(UUID(int=n)) for n in range(2)],
    "queue": ["a", "b"],
    "type": ["x", "y"],
    "state": [JobState.QUEUED, JobState.RUNNING],
}
labels = st.dictionaries(st.sampled_from(["team", "stage"]), st.sampled_from(["1", "2"]))


def value_sets(name: str) -> st.SearchStrategy[frozenset[Any]]:
    return st.frozensets(st.sampled_from(VALUES[name]), max_size=2)


filters = st.builds(
    JobFilter,
    queues=value_sets("queue"),
    types=value_sets("type"),
    states=value_sets("state"),
    labels=labels,
    batch_id=st.none() | st.sampled_from(VALUES["batch_id"]),
    job_ids=value_sets("job_id"),
)
events = st.builds(
    JobEvent,
    job_id=st.sampled_from(VALUES["job_id"]),
    seq=st.just(1),
    type=st.just(EventType.SUBMITTED),
    state=st.sampled_from(VALUES["state"]),
    attempt=st.just(0),
    time=st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    job_type=st.sampled_from(VALUES["type"]),
    queue=st.sampled_from(VALUES["queue"]),
    labels=labels,
    batch_id=st.none() | st.sampled_from(VALUES["batch_id"]),
    tenant=st.sampled_from(["ours", "theirs"]),
    error=st.none(),
    progress=st.none(),
    output=st.none(),
    due_time=st.none(),
    worker_id=st.none(),
    xid=st.just(1),
    position=st.just(1),
)


def should_match(job_filter: JobFilter, event: JobEvent) -> bool:
    """Return whether the event matches, field by field, as the contract defines."""
    checks: list[bool] = []
    if job_filter.queues:
        checks.append(event.queue in job_filter.queues)
    if job_filter.types:
        checks.append(event.job_type in job_filter.types)
    if job_filter.states:
        checks.append(event.state in job_filter.states)
    if job_filter.batch_id is not None:
        checks.append(event.batch_id == job_filter.batch_id)
    if job_filter.job_ids:
        checks.append(event.job_id in job_filter.job_ids)
    checks += [event.labels.get(key) == value for key, value in job_filter.labels.items()]
    return event.tenant == "ours" and all(checks)


@given(filters, events)
def test_event_matches_if_all_set_fields_match(job_filter: JobFilter, event: JobEvent):
    assert compile_filter("ours", job_filter)(event) == should_match(job_filter, event)


@given(filters, events)
def test_matching_event_has_exactly_one_key(job_filter: JobFilter, event: JobEvent):
    if should_match(job_filter, event):
        event_keys = list(keys_of_event(event))
        filter_keys = keys_of_filter("ours", job_filter)
        assert len(set(filter_keys)) == len(filter_keys)
        assert sum(event_keys.count(key) for key in filter_keys) == 1


@given(events)
def test_filter_never_matches_another_tenant(event: JobEvent):
    theirs = replace(event, tenant="theirs")
    assert not compile_filter("ours", JobFilter())(theirs)
    assert not compile_filter("ours", JobFilter(job_ids=frozenset([event.job_id])))(theirs)


def test_narrowest_field_is_the_key():
    job_ids = frozenset(VALUES["job_id"])
    wide = JobFilter(queues=frozenset("ab"), types=frozenset("x"), labels={"team": "1"})
    assert keys_of_filter("ours", JobFilter()) == [("tenant", "ours")]
    assert keys_of_filter("ours", wide) == [("label", "ours", "team", "1")]
    assert set(keys_of_filter("ours", replace(wide, job_ids=job_ids))) == {
        ("job", job_id) for job_id in job_ids
    }

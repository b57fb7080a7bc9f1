"""The lifecycle table, and the sets derived from it."""

from __future__ import annotations

import itertools

import pytest

from headrace_core.domain.lifecycle import (
    LIFECYCLE,
    TERMINAL,
    EventType,
    JobState,
    allows,
    sources,
    targets,
)

# A copy of the table, so every change to the table must change this test.
ROWS = """
- submitted queued
- submitted scheduled
scheduled due queued
retrying due queued
queued started running
running progressed running
running output running
running succeeded succeeded
running retry_scheduled retrying
running failed failed
running interrupted queued
running worker_lost queued
running worker_lost failed
running cancel_requested running
scheduled cancelled cancelled
queued cancelled cancelled
retrying cancelled cancelled
running cancelled cancelled
scheduled expired failed
queued expired failed
retrying expired failed
running expired failed
failed requeued queued
failed requeued scheduled
cancelled requeued queued
cancelled requeued scheduled
"""


@pytest.mark.parametrize("event", EventType)
def test_transition_outside_the_table_is_not_allowed(event: EventType) -> None:
    allowed = {
        f"{source or '-'} {event} {target}"
        for source, target in itertools.product([None, *JobState], JobState)
        if allows(source, event, target)
    }
    assert allowed == {row for row in ROWS.strip().splitlines() if row.split()[1] == event}


def test_each_event_has_one_rule() -> None:
    assert sorted(rule.event for rule in LIFECYCLE) == sorted(EventType)


def test_state_left_only_by_a_requeue_is_terminal() -> None:
    assert {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED} == TERMINAL


def test_each_state_except_succeeded_can_be_left() -> None:
    nonterminal = {state for rule in LIFECYCLE for state in rule.sources}
    assert set(JobState) - nonterminal == {JobState.SUCCEEDED}


def test_each_state_can_be_reached() -> None:
    assert {state for rule in LIFECYCLE for state in rule.targets} == set(JobState)


@pytest.mark.parametrize("event", EventType)
def test_sources_and_targets_equal_the_rows(event: EventType) -> None:
    rows = [row.split() for row in ROWS.strip().splitlines() if row.split()[1] == event]
    assert set(sources(event)) == {row[0] for row in rows} - {"-"}
    assert set(targets(event)) == {row[2] for row in rows}

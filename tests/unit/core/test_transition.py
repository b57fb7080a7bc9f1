"""The transition builder, and the transitions that use it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from headrace_core import store
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.store import jobs
from headrace_core.store.sql import transition
from headrace_core.store.sql.transition import Creation, Lock, Selection, Transition

DUE_SELECTION = Selection("due", "SELECT j.id FROM jobs j WHERE $guard $lock", Lock.SKIP)


def declared_transitions() -> Iterator[Transition | Creation]:
    for module in pkgutil.iter_modules(jobs.__path__, f"{jobs.__name__}."):
        declared = vars(importlib.import_module(module.name)).values()
        yield from (one for one in declared if isinstance(one, Transition | Creation))


def package_folder(package: ModuleType) -> Path:
    return Path(package.__path__[0])


def test_each_lifecycle_event_has_a_transition() -> None:
    events = {event for one in declared_transitions() for event in one.events}

    assert events == set(EventType)


@pytest.mark.parametrize(
    "statement", [r"INSERT\s+INTO\s+job_events", r"UPDATE\s+jobs\b.*\bstate = (?!state\b)"]
)
def test_only_the_builder_writes_states_and_events(statement: str) -> None:
    pattern = re.compile(statement, re.DOTALL)
    files = [
        path
        for path in package_folder(store).rglob("*.py")
        if "versions" not in path.parts and path != Path(transition.__file__)
    ]

    assert len(files) > 20
    assert [path.name for path in files if pattern.search(path.read_text())] == []


def test_transition_sets_state_seq_xid_and_time() -> None:
    sql = Transition(
        name="queued",
        events=[EventType.DUE],
        rows=DUE_SELECTION,
        changes={"queue_time": "NULL"},
        result="SELECT",
    ).sql

    sql = " ".join(sql.split())
    assert "WHERE j.state IN ('scheduled', 'retrying') FOR UPDATE OF j SKIP LOCKED" in sql
    assert (
        "UPDATE jobs j SET state = 'queued', seq = j.seq + 1, "
        "xid = greatest(j.xid, pg_current_xact_id()), queue_time = NULL, "
        "update_time = clock_timestamp() FROM due WHERE j.id = due.id" in sql
    )
    assert "e.id, e.seq, e.xid, e.tenant, 'due', e.state, e.attempt, e.update_time" in sql


@pytest.mark.parametrize("sql", ["SELECT j.id FROM jobs j $lock", "SELECT j.id FROM jobs j $guard"])
def test_selection_without_guard_or_lock_is_rejected(sql: str) -> None:
    rows = Selection("due", sql, Lock.SKIP)

    with pytest.raises(ValueError, match="the selection has no"):
        Transition(name="queued", events=[EventType.DUE], rows=rows, changes={}, result="SELECT")


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([EventType.DUE, EventType.STARTED], "no state that allows all"),
        ([EventType.WORKER_LOST], "several states"),
        ([EventType.PROGRESSED, EventType.OUTPUT], "several events"),
    ],
)
def test_ambiguous_declaration_is_rejected(events: list[EventType], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transition(name="changed", events=events, rows=DUE_SELECTION, changes={}, result="SELECT")


def test_change_to_a_builder_column_is_rejected() -> None:
    with pytest.raises(ValueError, match="the builder sets"):
        Transition(
            name="queued",
            events=[EventType.DUE],
            rows=DUE_SELECTION,
            changes={"seq": "1"},
            result="SELECT",
        )


def test_source_outside_the_lifecycle_is_rejected() -> None:
    with pytest.raises(ValueError, match="no state that allows"):
        Transition(
            name="queued",
            events=[EventType.DUE],
            sources=[JobState.RUNNING],
            rows=DUE_SELECTION,
            changes={},
            result="SELECT",
        )

"""Assertions that hold for every job history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace_core.domain.job import Job, JobEvent
from headrace_core.domain.lifecycle import LIFECYCLE, TERMINAL, EventType, JobState, allows

# A row of the lifecycle with one source and one target: (source, event, target).
Row = tuple[JobState | None, EventType, JobState]

ROWS: frozenset[Row] = frozenset(
    (source, rule.event, target)
    for rule in LIFECYCLE
    for source in rule.sources or (None,)
    for target in rule.targets
)


def rows_report(rows: Iterable[Row]) -> str:
    """Return the rows of the lifecycle as text."""
    lines = sorted(f"{source or '–'} --({event})--> {target}" for source, event, target in rows)
    return "\n".join(["rows taken:", *lines, ""])


def assert_legal(job: Job, events: Sequence[JobEvent]) -> None:
    """Assert that the events follow the lifecycle and end in the job's current state."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    state, attempt, time = None, 0, None
    for event in events:
        step = f"{state} --{event.type}--> {event.state} as number {event.seq}"
        assert allows(state, event.type, event.state), step
        attempt += event.type is EventType.STARTED
        assert event.attempt == attempt, step
        assert time is None or event.time >= time, step
        # Only a requeue may follow a terminal event.
        assert state not in TERMINAL or event.type is EventType.REQUEUED, step
        state, time = event.state, event.time
    assert (job.state, job.attempt, job.seq) == (state, attempt, len(events))
    assert job.update_time == time

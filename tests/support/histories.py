"""What every history of a job must be, whatever has happened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace_core.domain.job import Job, JobEvent
from headrace_core.domain.lifecycle import LIFECYCLE, TERMINAL, EventType, JobState, allows

# A row of the lifecycle, from one state to one other: (source, event, target).
Row = tuple[JobState | None, EventType, JobState]

ROWS: frozenset[Row] = frozenset(
    (source, rule.event, target)
    for rule in LIFECYCLE
    for source in rule.sources or (None,)
    for target in rule.targets
)


def rows_report(rows: Iterable[Row]) -> str:
    """Rows of the lifecycle as a person reads them."""
    lines = sorted(f"{source or '–'} --({event})--> {target}" for source, event, target in rows)
    return "\n".join(["rows taken:", *lines, ""])


def assert_legal(job: Job, events: Sequence[JobEvent]) -> None:
    """Asserts that the events lead to the job as it is, step by step through the lifecycle."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    state, attempt, time = None, 0, None
    for event in events:
        step = f"{state} --{event.type}--> {event.state} as number {event.seq}"
        assert allows(state, event.type, event.state), step
        attempt += event.type is EventType.STARTED
        assert event.attempt == attempt, step
        assert time is None or event.time >= time, step
        # Nothing but a person's requeue leads out of an end.
        assert state not in TERMINAL or event.type is EventType.REQUEUED, step
        state, time = event.state, event.time
    assert (job.state, job.attempt, job.seq) == (state, attempt, len(events))
    assert job.update_time == time

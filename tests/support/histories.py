"""What every history of a job must be, whatever has happened."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_core.domain.job import Job, JobEvent
from headrace_core.domain.lifecycle import TERMINAL, EventType, allows


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

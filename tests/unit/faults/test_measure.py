"""Tests of figures, with numbers that can be checked by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from faults.evidence import EventRow
from faults.measure import Figure, claim_waits, ends, percentile, recovery
from headrace_core.domain.lifecycle import EventType, JobState

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = BEGAN.timestamp()


def event(job_id: str, seq: int, kind: EventType, state: JobState, seconds: float) -> EventRow:
    return EventRow(
        job_id=job_id,
        seq=seq,
        type=kind,
        state=state,
        attempt=0,
        time=BEGAN + timedelta(seconds=seconds),
    )


def test_percentile_is_one_of_the_values():
    assert percentile(range(1, 101), 0.95) == 95
    assert percentile([7], 0.5) == 7
    assert math.isnan(percentile([], 0.5))


def test_figure_without_value_is_not_good():
    assert not Figure(name="x", value=math.nan).good
    assert Figure(name="x", value=1.0).good


@pytest.mark.parametrize(("value", "good"), [(0.5, False), (1, True), (2, True), (2.1, False)])
def test_figure_is_good_within_its_limits(value: float, good: bool):
    assert Figure(name="x", value=value, at_most=2, at_least=1).good is good


def test_throughput_returns_with_a_window_of_ninety_percent():
    times = [n / 10 for n in range(100)]  # ten per second, up to the fault
    times += [15 + n / 10 for n in range(200)]  # and again from the fifteenth second on
    found = recovery("x", times, steady=(0, 10), end=12.0, last=30.0, limit=9)
    assert found.before == pytest.approx(10)
    # 27 of 30 jobs: the window of 3 s starts 0.3 s before them.
    assert found.seconds == pytest.approx(5.7, abs=0.15)


def test_lower_throughput_never_counts_as_recovery():
    times = [n / 10 for n in range(100)] + [12 + n / 8 for n in range(200)]
    found = recovery("x", times, steady=(0, 10), end=12.0, last=30.0, limit=5)
    assert found.seconds is None


def test_backlog_alone_is_not_a_recovery():
    times = [n / 10 for n in range(100)]  # ten a second
    times += [12 + n / 50 for n in range(100)]  # the backlog, then nothing
    times += [26 + n / 10 for n in range(100)]
    found = recovery("x", times, steady=(0, 10), end=12.0, last=36.0, limit=20)
    assert found.seconds == pytest.approx(26 - 12 + 3, abs=1.5)


def test_claim_wait_starts_when_the_job_is_ready():
    queued, running = JobState.QUEUED, JobState.RUNNING
    events = [
        event("a", 1, EventType.SUBMITTED, JobState.SCHEDULED, 0),
        event("a", 2, EventType.DUE, queued, 5),
        event("a", 3, EventType.STARTED, running, 5.5),
        event("b", 1, EventType.SUBMITTED, queued, 6),
        event("c", 1, EventType.SUBMITTED, queued, 20),
        event("c", 2, EventType.STARTED, running, 21),
    ]
    assert claim_waits(events, since=EPOCH, until=EPOCH + 10) == pytest.approx([0.5])


def test_only_terminal_events_are_ends():
    events = [
        event("a", 1, EventType.SUBMITTED, JobState.QUEUED, 1),
        event("a", 2, EventType.CANCELLED, JobState.CANCELLED, 2),
    ]
    assert ends(events) == [EPOCH + 2]

"""The pace of the tail: immediate runs after a quiet time, fewer but larger runs under load."""

from __future__ import annotations

import pytest

from headrace_gateway.streams.tail import Pace


def test_run_after_a_quiet_time_needs_no_rest():
    pace = Pace()
    for start in (100.0, 100.1, 100.2):
        assert [pace.rest(1, now=start + step / 1000) for step in range(5)] == [0] * 5


def test_pace_allows_three_runs_per_job_at_50_jobs_a_second():
    pace = Pace()
    for job in range(500):
        for run in range(3):
            assert pace.rest(1, now=100 + job / 50 + run / 500) == 0


@pytest.mark.parametrize(("events", "a_second"), [(1, 200), (100, 100), (500, 50)])
def test_runs_that_find_more_events_are_less_frequent(events: int, a_second: int):
    pace, now, runs = Pace(), 100.0, 0
    while now < 110:
        now += 0.0001 + pace.rest(events, now=now)
        runs += 1
    assert runs == pytest.approx(10 * a_second, rel=0.05)


def test_backlog_does_not_delay_later_runs():
    pace = Pace()
    for _ in range(1000):
        pace.rest(500, now=100.0)
    assert pace.rest(1, now=100.0) <= 0.02

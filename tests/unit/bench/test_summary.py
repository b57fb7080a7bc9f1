"""Summaries over several rounds."""

from __future__ import annotations

import pytest

from bench.compare.summary import summarize


def test_summary_of_rates_and_cpu_times_is_the_median(measure) -> None:
    rounds = [
        measure("A", "oban", "x", rate, {"worker": cpu}, round=number)
        for number, (rate, cpu) in enumerate(((100, 10), (400, 30), (200, 20)), 1)
    ]
    [summary] = summarize(rounds)
    assert summary.rounds == 3
    assert summary.values["jobs_per_s"] == 200
    assert (summary.lowest["jobs_per_s"], summary.highest["jobs_per_s"]) == (100, 400)
    assert summary.cpu_total == 20


def test_summary_of_latencies_covers_all_rounds(measure) -> None:
    values = {"jobs": 2, "p50_ms": 0.0, "p95_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0}
    rounds = [
        measure("C", "oban", "x", 0, values=values, samples=samples)
        for samples in ((1000,) * 3, (9000,) * 7)
    ]
    [summary] = summarize(rounds)
    assert summary.values["jobs"] == 10
    assert summary.values["p50_ms"] == pytest.approx(9, rel=0.01)


def test_summaries_are_separate_per_contestant_and_case(measure) -> None:
    found = summarize(
        [measure("A", "oban", "x", 1), measure("A", "oban", "y", 2), measure("A", "arq", "x", 3)]
    )
    assert [(one.contestant, one.case) for one in found] == [
        *(("oban", "x"), ("oban", "y"), ("arq", "x"))
    ]

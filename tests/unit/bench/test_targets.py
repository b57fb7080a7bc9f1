"""Targets, as ratios to the best peers."""

from __future__ import annotations

import pytest

from bench.compare.accept import SINGLE
from bench.compare.drain import case as drain
from bench.compare.end_to_end import ENDS
from bench.compare.growth import EMPTY
from bench.compare.report import Report
from bench.compare.targets import TargetResult

ONE, TWO = drain(20_000, 1), drain(20_000, 2)


def test_drain_is_compared_with_the_two_best_peers(report: Report, measure) -> None:
    for name, rate in (("headrace", 8000), ("oban", 3000), ("pgqueuer", 10_000), ("celery", 400)):
        report.measurements.append(measure("A", name, ONE, rate))
    best, second = report.target_results
    assert (best.peer, best.ratio, best.wanted, best.met) == ("PgQueuer", 0.8, 1.0, False)
    assert best.missed_by == pytest.approx(0.2)
    assert (second.peer, second.wanted, second.met) == ("Oban", 2.5, True)
    assert second.missed_by == 0


def test_drain_with_two_workers_has_separate_targets(report: Report, measure) -> None:
    for name, rate in (("headrace", 8000), ("pgqueuer", 10_000)):
        report.measurements.append(measure("A", name, TWO, rate))
    [best] = report.target_results
    assert (best.wanted, best.met) == (0.7, True)


def test_single_submits_are_compared_with_a_durable_peer(report: Report, measure) -> None:
    for name, rate in (("headrace", 2000), ("celery", 9000), ("oban", 1000)):
        report.measurements.append(measure("B", name, SINGLE, rate))
    [result] = report.target_results
    assert (result.peer, result.ratio) == ("Oban", 2.0)


def test_latency_is_compared_with_best_durable_peer_and_celery(report: Report, measure) -> None:
    for name, ms in (("headrace", 6), ("pgqueuer", 40), ("oban", 9), ("celery", 5)):
        measured = measure("C", name, "50 jobs/s", 0, values={"p50_ms": ms, "p99_ms": 2 * ms})
        report.measurements.append(measured)
    found = {(result.figure, result.peer): result for result in report.target_results}
    assert len(found) == 4
    durable = found["C, p50, durable", "Oban"]
    assert durable.ratio == pytest.approx(2 / 3)
    assert not durable.met
    assert durable.missed_by == pytest.approx(1 / 9)
    assert found["C, p99", "Celery"].ratio == pytest.approx(1.2)


def test_growth_is_compared_with_an_empty_database(report: Report, measure) -> None:
    report.measurements += [
        measure("E", "headrace", EMPTY, 1000),
        measure("E", "headrace", "100 queues", 950),
        measure("D", "headrace", ENDS, 1000),
    ]
    [result] = report.target_results
    assert (result.figure, result.ratio, result.met) == ("E, 100 queues", 0.95, True)


def test_cpu_time_is_compared_with_the_second_best_peer(report: Report, measure) -> None:
    for name, cpu in (("headrace", 200.0), ("pgqueuer", 150.0), ("oban", 360.0)):
        report.measurements.append(measure("A", name, ONE, 1000, {"worker": cpu}))
    result = report.target_results[-1]
    assert "lowest: PgQueuer" in result.figure
    assert (result.peer, result.met) == ("Oban", True)


def test_figure_without_headrace_or_peers_has_no_target(report: Report, measure) -> None:
    report.measurements += [measure("A", "oban", ONE, 3000), measure("D", "headrace", ENDS, 5000)]
    assert report.target_results == []


def test_missed_target_reports_its_deviation() -> None:
    result = TargetResult(
        figure="A", peer="Oban", theirs=4000.0, ours=3000.0, unit="/s", wanted=1.5, at_least=True
    )
    assert result.cells() == [
        *("A", "Oban", "4,000 /s", "3,000 /s", "0.75", "≥ 1.5"),
        "missed by 50.0%",
    ]

"""Ratios to the best peer, and whether they are what is aimed at."""

from __future__ import annotations

import pytest

from bench.compare.accept import SINGLE
from bench.compare.drain import case as drain
from bench.compare.end_to_end import ENDS
from bench.compare.growth import EMPTY
from bench.compare.report import Report
from bench.compare.targets import Verdict

ONE, TWO = drain(20_000, 1), drain(20_000, 2)


def test_a_drain_is_compared_with_the_best_and_the_second(report: Report, measure) -> None:
    for name, rate in (("headrace", 8000), ("oban", 3000), ("pgqueuer", 10_000), ("celery", 400)):
        report.measurements.append(measure("A", name, ONE, rate))
    best, second = report.verdicts
    assert (best.peer, best.ratio, best.wanted, best.met) == ("PgQueuer", 0.8, 1.0, False)
    assert best.missed_by == pytest.approx(0.2)
    assert (second.peer, second.wanted, second.met) == ("Oban", 2.5, True)
    assert second.missed_by == 0


def test_two_workers_have_targets_of_their_own(report: Report, measure) -> None:
    for name, rate in (("headrace", 8000), ("pgqueuer", 10_000)):
        report.measurements.append(measure("A", name, TWO, rate))
    [best] = report.verdicts
    assert (best.wanted, best.met) == (0.7, True)


def test_single_submits_are_compared_with_who_keeps_them(report: Report, measure) -> None:
    for name, rate in (("headrace", 2000), ("celery", 9000), ("oban", 1000)):
        report.measurements.append(measure("B", name, SINGLE, rate))
    [verdict] = report.verdicts
    assert (verdict.peer, verdict.ratio) == ("Oban", 2.0)


def test_latency_is_compared_with_the_best_durable_peer_and_with_celery(
    report: Report, measure
) -> None:
    for name, ms in (("headrace", 6), ("pgqueuer", 40), ("oban", 9), ("celery", 5)):
        measured = measure("C", name, "50 jobs/s", 0, values={"p50_ms": ms, "p99_ms": 2 * ms})
        report.measurements.append(measured)
    found = {(verdict.what, verdict.peer): verdict for verdict in report.verdicts}
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
    [verdict] = report.verdicts
    assert (verdict.what, verdict.ratio, verdict.met) == ("E, 100 queues", 0.95, True)


def test_one_peer_may_use_less_cpu_time(report: Report, measure) -> None:
    for name, cpu in (("headrace", 200.0), ("pgqueuer", 150.0), ("oban", 360.0)):
        report.measurements.append(measure("A", name, ONE, 1000, {"worker": cpu}))
    verdict = report.verdicts[-1]
    assert "second only to PgQueuer" in verdict.what
    assert (verdict.peer, verdict.met) == ("Oban", True)


def test_a_figure_without_us_or_without_peers_has_no_verdict(report: Report, measure) -> None:
    report.measurements += [measure("A", "oban", ONE, 3000), measure("D", "headrace", ENDS, 5000)]
    assert report.verdicts == []


def test_a_verdict_tells_by_how_much_it_was_missed() -> None:
    verdict = Verdict(
        what="A", peer="Oban", theirs=4000.0, ours=3000.0, unit="/s", wanted=1.5, least=True
    )
    assert verdict.cells() == [
        *("A", "Oban", "4,000 /s", "3,000 /s", "0.75", "≥ 1.5"),
        "missed by 50.0%",
    ]

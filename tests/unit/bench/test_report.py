"""Tables and charts in a report, and the generated section of the page."""

from __future__ import annotations

import json

import pytest

from bench.compare.accept import SINGLE
from bench.compare.charts import charts
from bench.compare.drain import case as drain
from bench.compare.latency import case as latency_case
from bench.compare.measurement import Failure
from bench.compare.page import BEGIN, END, markdown_images, with_section
from bench.compare.report import Report

CASE = drain(20_000, 1)


def filled_report(report: Report, measure) -> Report:
    cpu = {"client": 1.0, "worker": 100.0, "postgresql": 50.0}
    report.measurements += [
        measure("A", "headrace", CASE, 8000, cpu),
        measure("A", "oban", CASE, 3000, cpu, note="the first 5,000 in 10 s"),
        measure("B", "headrace", SINGLE, 1500, cpu),
    ]
    report.failures.append(Failure(figure="C", contestant="celery", reason="why\ntraceback"))
    return report


def test_table_row_of_a_contestant_lists_the_kept_data(report: Report, measure) -> None:
    text = filled_report(report, measure).markdown()
    assert "| Headrace | 8,000 | row; FLUSHALL: all jobs; kill -9: never |" in text
    assert "| Oban | 3,000* | row; FLUSHALL: all jobs; kill -9: never |" in text
    assert "| Headrace | 1 |  |  |  | 100 | 50 |  | 151 |" in text
    assert "commit 0123456789ab" in text


def test_latency_table_contains_the_costs_per_job(report: Report, measure) -> None:
    values = {f"{name}_ms": 2.0 for name in ("p50", "p95", "p99", "max")}
    values |= {"jobs": 1.0, "wake_ups_per_job": 14.0, "wal_bytes_per_job": 1234.0}
    case = latency_case(report.plan)
    report.measurements.append(
        measure("C", "headrace", case, 0, {"worker": 9.0}, values=values, samples=(2000,))
    )
    assert "| 2.0 | 2.0 | 2.0 | 2.0 | 9 | 14 | 1,234 | row;" in report.markdown()


def test_report_lists_deviations_and_failures(report: Report, measure) -> None:
    text = filled_report(report, measure).markdown()
    assert f"- A, {CASE}: Oban: the first 5,000 in 10 s" in text
    assert "- C: Celery failed: why\n" in f"{text}\n"


def test_json_document_contains_all_figures(report: Report, measure) -> None:
    document = json.loads(json.dumps(filled_report(report, measure).document()))
    assert document.keys() >= {"machine", "settings", "contestants", "measurements", "failures"}
    assert document["targets"][0]["ratio"] == pytest.approx(8 / 3)
    assert document["summaries"][0]["cpu_total"] == 151


def test_chart_shows_the_best_contestant_first(report: Report, measure) -> None:
    drawn = {chart.name: chart for chart in charts(filled_report(report, measure))}
    assert drawn.keys() == {"drain-1", "accept", "cpu"}
    assert [(bar.label, bar.ours) for bar in drawn["drain-1"].bars] == [
        *(("Headrace", True), ("Oban", False))
    ]


def test_page_section_between_the_markers_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_section(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="must contain"):
        with_section("no marks", "new")
    assert (
        markdown_images([("a", "A"), ("b", "B")], "folder")
        == "![A](folder/a.svg)\n\n![B](folder/b.svg)"
    )

"""Bar charts of the figures. `bench/compare/draw/draw.py` draws them in a separate environment."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.compare import accept, drain, end_to_end, latency
from bench.compare.contestant import HEADRACE
from bench.compare.environment import EnvironmentFailedError, environment
from bench.compare.report import Report

_DRAW: Final = Path(__file__).parent / "draw"
_RATE: Final = "jobs_per_s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar; the bars of Headrace (`ours`) have a separate color."""

    label: str
    value: float
    ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart.

    Args:
        name: the name of the chart's files.
        title: the text above the bars, with the unit.
        bars: the bars, from top to bottom.
    """

    name: str
    title: str
    bars: tuple[Bar, ...]


def charts(report: Report) -> list[Chart]:
    """Return the charts that have at least one bar."""
    plan = report.plan
    found = [
        *(
            _ranked_chart(
                report, f"drain-{workers}", f"Drain, {_worker_count(workers)} (jobs/s)", case
            )
            for workers, case in _drain_charts(report)
        ),
        _ranked_chart(report, "accept", "Single submits accepted (jobs/s)", ("B", accept.SINGLE)),
        _ranked_chart(report, "bulk", "Bulk submits accepted (jobs/s)", ("B", accept.BULK)),
        _ranked_chart(
            report,
            "latency",
            f"Latency, p99 at {plan.rate:g} jobs/s (ms)",
            ("C", latency.case(plan)),
            value="p99_ms",
        ),
        _ranked_chart(report, "end-to-end", "End to end (jobs/s)", ("D", end_to_end.ENDS)),
        _cpu_chart(report),
        _growth_chart(report),
    ]
    return [chart for chart in found if chart.bars]


async def draw(drawn: list[Chart], folder: Path) -> None:
    """Write each chart as SVG and as PNG.

    Raises: EnvironmentFailedError: the drawing program could not be installed or failed.
    """
    python = await environment("draw", _DRAW / "requirements.txt")
    process = await asyncio.create_subprocess_exec(
        *(str(python), str(_DRAW / "draw.py"), str(folder)),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, printed = await process.communicate(json.dumps([asdict(one) for one in drawn]).encode())
    if process.returncode != 0:
        reason = printed.decode(errors="replace").strip()
        raise EnvironmentFailedError(f"drawing the charts failed: {reason}")


def _ranked_chart(
    report: Report, name: str, title: str, case: tuple[str, str], *, value: str = _RATE
) -> Chart:
    """Return a chart of all contestants in one case, the best one first."""
    titles = {one.name: one.title for one in report.contestants}
    bars = [
        Bar(
            label=titles[one.contestant],
            value=one.values[value],
            ours=one.contestant == HEADRACE,
        )
        for one in report.summaries
        if (one.figure, one.case) == case
    ]
    return Chart(
        name=name,
        title=title,
        bars=tuple(sorted(bars, key=lambda bar: bar.value, reverse=value == _RATE)),
    )


def _drain_charts(report: Report) -> list[tuple[int, tuple[str, str]]]:
    """Return, for each number of workers, a chart of the case with the fewest jobs."""
    return [
        (workers, ("A", drain.case(report.plan.drain[0], workers)))
        for workers in report.plan.workers
    ]


def _cpu_chart(report: Report) -> Chart:
    titles = {one.name: one.title for one in report.contestants}
    _, case = _drain_charts(report)[0]
    bars = [
        Bar(label=titles[one.contestant], value=one.cpu_total, ours=one.contestant == HEADRACE)
        for one in report.summaries
        if (one.figure, one.case) == case
    ]
    return Chart(
        name="cpu",
        title="CPU time of all processes per drained job (µs)",
        bars=tuple(sorted(bars, key=lambda bar: bar.value)),
    )


def _growth_chart(report: Report) -> Chart:
    return Chart(
        name="growth",
        title="End to end on filled databases (jobs/s)",
        bars=tuple(
            Bar(label=one.case, value=one.values[_RATE], ours=True)
            for one in report.summaries
            if one.figure == "E"
        ),
    )


def _worker_count(count: int) -> str:
    return f"{count} worker process{'es' if count > 1 else ''}"

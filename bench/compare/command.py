"""The command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.compare.charts import charts, draw
from bench.compare.environment import EnvironmentFailedError
from bench.compare.page import markdown_images, with_section
from bench.compare.plan import Plan
from bench.compare.report import Report
from bench.compare.run import run
from bench.progress import announce
from headrace_standalone.embedded import EmbeddedServerError
from headrace_standalone.supervised import ProgramFailedError

_PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison.

    Returns:
        The exit code: 0, or 1 if the comparison could not run or Headrace failed in a figure.
        Failed peers and missed targets do not change it.
    """
    options = _parser().parse_args(arguments)
    # On SIGTERM, stop all started processes before exiting, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return asyncio.run(_run(options))
    except KeyboardInterrupt:
        return 130
    except (EmbeddedServerError, ProgramFailedError, ValueError) as error:
        announce(f"the comparison failed: {error}")
        return 1


async def _run(options: argparse.Namespace) -> int:
    report = await run(
        _plan(options),
        announce=announce,
        database_url=os.environ.get("BENCH_DATABASE_URL"),
        redis_url=os.environ.get("BENCH_REDIS_URL"),
    )
    print(report.text())
    if options.json:
        options.json.write_text(json.dumps(report.document(), indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(report.markdown() + "\n")
    if options.charts:
        await _draw(report, options.charts)
    if options.docs:
        await _write_page(report)
    return 1 if any(failure.contestant == "headrace" for failure in report.failures) else 0


async def _write_page(report: Report) -> None:
    parts = [report.markdown()]
    if await _draw(report, _PAGE.parent / "benchmarks"):
        parts.insert(
            0, markdown_images([(one.name, one.title) for one in charts(report)], "benchmarks")
        )
    _PAGE.write_text(with_section(_PAGE.read_text(), "\n\n".join(parts)))


async def _draw(report: Report, folder: Path) -> bool:
    try:
        await draw(charts(report), folder)
    except EnvironmentFailedError as error:
        announce(f"skipping the charts: {error}")
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    plan = Plan()
    parser = argparse.ArgumentParser(
        prog="python bench/compare",
        description="Compare Headrace with alternative job queues on the same work.",
        epilog="BENCH_DATABASE_URL and BENCH_REDIS_URL select existing servers. The comparison "
        "creates databases on the first and deletes all data of the second.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="compare fewer peers, with smaller measurements")
    add("--figures", type=_split_words, help=f"figures, comma-separated ({','.join(plan.figures)})")
    add(
        "--peers",
        type=_split_words,
        dest="contestants",
        help="contestants, comma-separated, including headrace (all)",
    )
    add("--rounds", type=int, help=f"rounds per measurement ({plan.rounds})")
    add(
        "--drain",
        type=_split_numbers,
        help=f"waiting jobs, comma-separated ({_joined(plan.drain)})",
    )
    add(
        "--workers",
        type=_split_numbers,
        help=f"worker processes, comma-separated ({_joined(plan.workers)})",
    )
    add("--slow-jobs", type=int, help=f"jobs for slow contestants ({plan.slow_jobs})")
    add(
        "--accept-seconds",
        type=float,
        help=f"approximate duration of each measurement of B, in seconds ({plan.accept_seconds:g})",
    )
    add("--batch", type=int, help=f"jobs per bulk submit in B ({plan.batch})")
    add("--clients", type=int, help=f"concurrent clients in B ({plan.clients})")
    add(
        "--warm-up",
        type=float,
        help=f"warm-up before each round of C, in seconds ({plan.warm_up:g})",
    )
    add("--seconds", type=float, help=f"duration of each round of C, in seconds ({plan.seconds:g})")
    add("--jobs", type=int, help=f"jobs per end-to-end run in D and E ({plan.jobs})")
    add("--waiting", type=int, help=f"waiting jobs in E's database ({plan.waiting})")
    add("--finished", type=int, help=f"finished jobs in E's database ({plan.finished})")
    add("--queues", type=int, help=f"queues that share E's jobs ({plan.queues})")
    add("--delayed", type=int, help=f"delayed jobs in E, due in the same second ({plan.delayed})")
    add(
        "--memory-jobs",
        type=int,
        help=f"jobs between the two memory readings of F ({plan.memory_jobs})",
    )
    add("--rest", type=float, help=f"idle seconds before each memory reading of F ({plan.rest:g})")
    add("--gateways", type=int, help=f"number of Headrace gateways ({plan.gateways})")
    add("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    add("--markdown", type=Path, metavar="FILE", help="also write the tables to FILE")
    add("--charts", type=Path, metavar="FOLDER", help="draw the charts in FOLDER (SVG and PNG)")
    add("--docs", action="store_true", help="write tables and charts to docs/benchmarks.md")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = Plan().quick() if options.quick else Plan()
    given = {name: getattr(options, name, None) for name in plan.document()}
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def _split_words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _split_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))

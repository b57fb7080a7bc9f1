"""The command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.compare.charts import charts, draw
from bench.compare.environment import EnvironmentFailedError
from bench.compare.page import images, replaced
from bench.compare.plan import Plan
from bench.compare.report import Report
from bench.compare.run import run
from headrace_standalone.embedded import EmbeddedServerError
from headrace_standalone.supervised import ProgramFailedError

_PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison.

    Returns:
        The exit code: 0, or 1 when it could not be run or Headrace failed in a figure. A peer that
        fails and a target that is missed are told and no failure.
    """
    options = _parser().parse_args(arguments)
    # As Ctrl-C: everything that was started ends first.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return asyncio.run(_run(options))
    except KeyboardInterrupt:
        return 130
    except (EmbeddedServerError, ProgramFailedError, ValueError) as error:
        _announce(f"it failed: {error}")
        return 1


async def _run(options: argparse.Namespace) -> int:
    report = await run(
        _plan(options),
        announce=_announce,
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
        parts.insert(0, images([(one.name, one.title) for one in charts(report)], "benchmarks"))
    _PAGE.write_text(replaced(_PAGE.read_text(), "\n\n".join(parts)))


async def _draw(report: Report, folder: Path) -> bool:
    try:
        await draw(charts(report), folder)
    except EnvironmentFailedError as error:
        _announce(f"there are no charts: {error}")
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    plan = Plan()
    parser = argparse.ArgumentParser(
        prog="python bench/compare",
        description="Headrace beside what its users would pick instead, on the same work.",
        epilog="BENCH_DATABASE_URL and BENCH_REDIS_URL name servers to use instead of our own. "
        "Databases are made in the one, and all that is in the other is deleted.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer peers and less of everything")
    add("--figures", type=_words, help=f"which, with commas ({','.join(plan.figures)})")
    add("--peers", type=_words, dest="contestants", help="who, with commas; headrace is one (all)")
    add("--rounds", type=int, help=f"rounds of each measurement ({plan.rounds})")
    add("--drain", type=_numbers, help=f"waiting jobs, with commas ({_joined(plan.drain)})")
    add("--workers", type=_numbers, help=f"worker processes, with commas ({_joined(plan.workers)})")
    add("--slow-jobs", type=int, help=f"jobs for those that are slow ({plan.slow_jobs})")
    add("--accept-seconds", type=float, help=f"seconds of each in B ({plan.accept_seconds:g})")
    add("--clients", type=int, help=f"clients that submit at the same time ({plan.clients})")
    add("--warm-up", type=float, help=f"seconds before each round of C ({plan.warm_up:g})")
    add("--seconds", type=float, help=f"seconds of a round of C ({plan.seconds:g})")
    add("--jobs", type=int, help=f"jobs that go from end to end ({plan.jobs})")
    add("--waiting", type=int, help=f"jobs that wait meanwhile ({plan.waiting})")
    add("--finished", type=int, help=f"jobs that have ended before ({plan.finished})")
    add("--queues", type=int, help=f"queues over which jobs are spread ({plan.queues})")
    add("--delayed", type=int, help=f"jobs that are due in the same second ({plan.delayed})")
    add("--memory-jobs", type=int, help=f"jobs until memory is read again ({plan.memory_jobs})")
    add("--rest", type=float, help=f"seconds of rest before memory is read ({plan.rest:g})")
    add("--gateways", type=int, help=f"gateways of Headrace ({plan.gateways})")
    add("--json", type=Path, metavar="FILE", help="write all figures there as well")
    add("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
    add("--charts", type=Path, metavar="FOLDER", help="draw the charts there (SVG and PNG)")
    add("--docs", action="store_true", help="write tables and charts into docs/benchmarks.md")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = Plan().quick() if options.quick else Plan()
    said = {name: getattr(options, name, None) for name in plan.document()}
    return replace(plan, **{name: value for name, value in said.items() if value is not None})


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


_BEGAN: Final = time.monotonic()


def _announce(text: str) -> None:
    sys.stderr.write(f"bench: {time.monotonic() - _BEGAN:4.0f} s  {text}\n")

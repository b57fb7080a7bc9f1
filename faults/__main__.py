"""The command: `make faults`, or `PYTHONPATH=tests:. .venv/bin/python -m faults`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
import warnings
from collections.abc import Mapping, Sequence

import uvloop
from rich.console import Console

from faults import page, report
from faults.choice import choose
from faults.options import read_options
from faults.result import Result
from faults.runner import run_trial
from faults.scenario import Scenario, find_scenarios

_WIDTH = 160


async def _run(
    options: argparse.Namespace, chosen: Sequence[Scenario], console: Console, *, seed: int
) -> list[Result]:
    results: list[Result] = []
    try:
        for scenario in chosen:
            for number in range(options.times):
                started = time.monotonic()

                def log(text: str, name: str = scenario.id, since: float = started) -> None:
                    passed = time.monotonic() - since
                    console.print(f"[dim]{passed:6.1f}[/] {name} {text}", highlight=False)

                result = await run_trial(
                    scenario,
                    seed=seed + number,
                    short=options.short,
                    keep=options.keep,
                    log=log,
                )
                results.append(result)
                log("good" if result.good else f"[red]{result.word}[/] {result.not_run}")
                # Write after each trial, so an interruption loses no result.
                report.write(report.as_markdown(results), options.markdown)
                report.write(report.as_json(results), options.json)
    finally:
        if results:
            report.show(console, results)
    return results


def _choice(
    options: argparse.Namespace, scenarios: Mapping[str, Scenario], seed: int
) -> list[Scenario]:
    chosen = [scenarios[name] for name in options.scenarios or scenarios]
    if options.quick:
        chosen = choose(chosen, seed=seed, budget=options.budget * 60, short=True)
    return chosen


def _list(console: Console, scenarios: Mapping[str, Scenario]) -> None:
    for scenario in scenarios.values():
        times = f"{scenario.usual:4.0f} s, short {scenario.usual_short:3.0f} s"
        console.print(f"{scenario.id:4} {times}  {scenario.title}; {' '.join(scenario.shows)}")
    full, short = (
        sum(scenario.seconds(short=short) for scenario in scenarios.values()) / 60
        for short in (False, True)
    )
    console.print(f"all {len(scenarios)}: about {full:.0f} min, short {short:.0f} min")


def main() -> int:
    """Run the command and return its exit code."""
    # asyncpg and gRPC warn about open resources during garbage collection.
    warnings.simplefilter("ignore", ResourceWarning)
    # A file or a pipe has no width of its own.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    scenarios = find_scenarios()
    options = read_options(scenarios)
    if options.list:
        _list(console, scenarios)
        return 0
    if options.earlier:
        results = [result for file in options.earlier for result in report.read_json(file)]
        report.show(console, results)
    else:
        seed = random.randrange(1_000_000) if options.seed is None else options.seed
        chosen = _choice(options, scenarios, seed)
        minutes = sum(one.seconds(short=options.short) for one in chosen) * options.times / 60
        names = " ".join(scenario.id for scenario in chosen)
        console.print(f"seed {seed}: {names}; about {minutes:.0f} min")
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                results = runner.run(_run(options, chosen, console, seed=seed))
        except KeyboardInterrupt:
            return 130
    if options.docs:
        page.publish(scenarios.values(), results)
    return 1 if any(result.broken for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The command: `make faults`, or `PYTHONPATH=tests .venv/bin/python -m faults`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
import warnings

import uvloop
from rich.console import Console

from faults.report import Result, show
from faults.runner import run_trial
from faults.scenario import Scenario, find_scenarios

_WIDTH = 160

_EPILOG = """\
examples:
  make faults                     every scenario, each with a seed of its own
  make faults S=F7                one of them
  make faults S="F7 F9" SEED=17   two, with the seed that a report has named
  make faults S=F9 TIMES=10       ten seeds in turn

Each scenario starts its own PostgreSQL, Valkey, gateways, schedulers and workers on loopback, in a
folder that is deleted afterwards. What is needed to understand a trial that failed is kept in
faults-output. The exit code is 1 when an invariant or a figure is broken, and 130 after Ctrl-C,
which ends every process.
"""


def _arguments(scenarios: dict[str, Scenario]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m faults",
        description="Faults that Headrace survives, done to real processes under load.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="which ones, F7 for instance; all of them"
    )
    parser.add_argument("--list", action="store_true", help="show which there are, and end")
    parser.add_argument("--seed", type=int, help="decides what is left to chance; default: drawn")
    parser.add_argument(
        "--times", type=int, default=1, help="run each so often, with seeds that count up"
    )
    parser.add_argument(
        "--short", action="store_true", help="shorten the long waits: for CI, not for figures"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep logs and evidence of good trials as well"
    )
    arguments = parser.parse_args()
    arguments.scenarios = [name.upper() for name in arguments.scenarios]
    unknown = [name for name in arguments.scenarios if name not in scenarios]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)} (there are {', '.join(scenarios)})")
    return arguments


async def _run(arguments: argparse.Namespace, chosen: list[Scenario], console: Console) -> int:
    results: list[Result] = []
    first = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    try:
        for scenario in chosen:
            for number in range(arguments.times):
                began = time.monotonic()

                def say(text: str, name: str = scenario.id, since: float = began) -> None:
                    passed = time.monotonic() - since
                    console.print(f"[dim]{passed:6.1f}[/] {name} {text}", highlight=False)

                result = await run_trial(
                    scenario,
                    seed=first + number,
                    short=arguments.short,
                    keep=arguments.keep,
                    say=say,
                )
                results.append(result)
                say("good" if result.good else "[red]broken[/]")
    finally:
        if results:
            show(console, results)
    return 0 if all(result.good for result in results) else 1


def main() -> int:
    """Runs what the arguments say; returns the exit code."""
    # asyncpg and grpc know of what they leave open only when it is collected.
    warnings.simplefilter("ignore", ResourceWarning)
    # A file or a pipe has no width of its own.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    scenarios = find_scenarios()
    arguments = _arguments(scenarios)
    if arguments.list:
        for scenario in scenarios.values():
            console.print(f"{scenario.id:4} {scenario.title}; {' '.join(scenario.shows)}")
        return 0
    chosen = [scenarios[name] for name in arguments.scenarios or scenarios]
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(arguments, chosen, console))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

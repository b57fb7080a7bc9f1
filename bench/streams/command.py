"""The command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.child import ChildFailedError
from bench.streams.following import Mix
from bench.streams.plan import Plan
from bench.streams.run import run
from headrace_standalone.embedded import EmbeddedServerError
from headrace_standalone.supervised import ProgramFailedError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark.

    Returns:
        The exit code: 0, or 1 when it could not be run or a stream has lost, repeated or swapped
        an event. A target that was missed is told and no failure, since machines differ.
    """
    options = _parser().parse_args(arguments)
    try:
        report = asyncio.run(run(_plan(options), announce=_announce))
    except KeyboardInterrupt:
        return 130
    except (ChildFailedError, EmbeddedServerError, ProgramFailedError, TimeoutError) as error:
        _announce(f"it failed: {error or type(error).__name__}")
        return 1
    print(report.text())
    if options.json:
        options.json.write_text(json.dumps(report.document(), indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(report.markdown() + "\n")
    return 0 if report.exact else 1


def _parser() -> argparse.ArgumentParser:
    plan = Plan()
    parser = argparse.ArgumentParser(
        prog="python bench/streams",
        description="How soon clients of open streams see a transition, and what streams cost.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="less of everything, in under a minute")
    add("--streams", type=_numbers, help=f"open streams, with commas ({_joined(plan.streams)})")
    add("--mix", type=Mix, choices=list(Mix), help=f"which calls they are ({plan.mix})")
    add("--rate", type=float, help=f"events a second in all ({plan.rate:g})")
    add("--rounds", type=int, help=f"rounds of each measurement ({plan.rounds})")
    add("--seconds", type=float, help=f"seconds of a round ({plan.seconds:g})")
    add("--warm-up", type=float, help=f"seconds before the first round ({plan.warm_up:g})")
    add("--idle", type=int, help=f"idle streams; 0 leaves them out ({plan.idle})")
    add("--settle", type=float, help=f"seconds that idle streams stay ({plan.settle:g})")
    add("--channels", type=int, help=f"connections that streams are opened over ({plan.channels})")
    add("--burst", type=int, help=f"events for the throughput; 0 leaves it out ({plan.burst})")
    add("--pollers", type=int, help=f"clients that poll; 0 leaves them out ({plan.pollers})")
    add("--seed", type=int, help=f"of the order of events and the sizes of commits ({plan.seed})")
    add("--json", type=Path, metavar="FILE", help="write all figures there as well")
    add("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = Plan().quick() if options.quick else Plan()
    said = {name: getattr(options, name, None) for name in plan.document()}
    return replace(plan, **{name: value for name, value in said.items() if value is not None})


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _announce(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")

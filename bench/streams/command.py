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
    """Run the benchmark.

    Returns:
        The exit code: 0, or 1 if the benchmark could not run, or if a stream lost, repeated or
        reordered an event. Missed targets do not change it, because machines differ.
    """
    options = _parser().parse_args(arguments)
    try:
        report = asyncio.run(run(_plan(options), announce=_announce))
    except KeyboardInterrupt:
        return 130
    except (ChildFailedError, EmbeddedServerError, ProgramFailedError, TimeoutError) as error:
        _announce(f"the benchmark failed: {error or type(error).__name__}")
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
        description="Measure the latency and the cost of the status streams.",
    )
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="run smaller measurements, which take less than a minute",
    )
    add("--streams", type=_numbers, help=f"open streams, comma-separated ({_joined(plan.streams)})")
    add("--mix", type=Mix, choices=list(Mix), help=f"RPCs of the streams ({plan.mix})")
    add("--rate", type=float, help=f"events per second in total ({plan.rate:g})")
    add("--rounds", type=int, help=f"rounds per measurement ({plan.rounds})")
    add("--seconds", type=float, help=f"duration of each round, in seconds ({plan.seconds:g})")
    add("--warm-up", type=float, help=f"warm-up, in seconds ({plan.warm_up:g})")
    add("--idle", type=int, help=f"idle streams; 0 omits them ({plan.idle})")
    add("--settle", type=float, help=f"lifetime of idle streams, in seconds ({plan.settle:g})")
    add("--channels", type=int, help=f"connections of the streams ({plan.channels})")
    add(
        "--burst",
        type=int,
        help=f"events for the throughput measurement; 0 omits it ({plan.burst})",
    )
    add("--pollers", type=int, help=f"polling clients; 0 omits the comparison ({plan.pollers})")
    add(
        "--seed",
        type=int,
        help=f"random seed for the event order and the commit sizes ({plan.seed})",
    )
    add("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    add("--markdown", type=Path, metavar="FILE", help="also write the tables to FILE")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = Plan().quick() if options.quick else Plan()
    given = {name: getattr(options, name, None) for name in plan.document()}
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _announce(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")

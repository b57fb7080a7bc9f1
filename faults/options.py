"""The command line of `python -m faults`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from faults.runner import OUTPUT
from faults.scenario import Scenario

_EPILOG = """\
examples:
  make faults                     all scenarios with one random seed
  make faults S=F7                one scenario
  make faults S="F7 F9" SEED=17   two scenarios, with the seed of a report
  make faults S=F9 TIMES=10       ten consecutive seeds
  make faults-quick               a random choice that fits in ten minutes, with shorter waits
  make faults A=--docs            all scenarios; write their figures into docs/reliability.md
  make faults A="--docs --from a.json b.json"    write the figures of earlier runs

Each scenario starts its own PostgreSQL, Valkey, gateways, schedulers and workers on loopback, in a
temporary folder. The logs and evidence of failed trials are kept in faults-output, with a report of
all trials (report.md, report.json). The exit code is 1 if an invariant or a figure is broken, and
130 after Ctrl-C, which ends every process.
"""


def read_options(scenarios: Mapping[str, Scenario]) -> argparse.Namespace:
    """Parse the command line; exit with an error message if it is invalid."""
    parser = argparse.ArgumentParser(
        prog="python -m faults",
        description="Inject faults into real processes under load and check the invariants.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("scenarios", nargs="*", metavar="SCENARIO", help="scenarios, for example F7; default: all")
    add("--list", action="store_true", help="list the scenarios and their duration")
    add("--seed", type=int, help="seed of all random choices; default: random")
    add("--times", type=int, default=1, help="trials per scenario, with consecutive seeds")
    add("--short", action="store_true", help="shorten the long waits: for CI, not for figures")
    add("--keep", action="store_true", help="also keep the logs and evidence of good trials")
    add(
        "--quick",
        action="store_true",
        help="run a random choice that fits --budget, with shorter waits",
    )
    add(
        "--budget",
        type=float,
        default=10.0,
        metavar="MINUTES",
        help="longest duration of --quick; default: 10",
    )
    add(
        "--markdown",
        type=Path,
        metavar="FILE",
        default=OUTPUT / "report.md",
        help="Markdown report; default: %(default)s",
    )
    add(
        "--json",
        type=Path,
        metavar="FILE",
        default=OUTPUT / "report.json",
        help="JSON report; default: %(default)s",
    )
    add("--docs", action="store_true", help="write the results into docs/reliability.md")
    add(
        "--from",
        dest="earlier",
        nargs="+",
        type=Path,
        default=(),
        metavar="FILE",
        help="read the results from these reports (--json) instead of running trials",
    )
    options = parser.parse_args()
    options.scenarios = [name.upper() for name in options.scenarios]
    unknown = [name for name in options.scenarios if name not in scenarios]
    if unknown:
        parser.error(f"unknown scenario {', '.join(unknown)}; use one of {', '.join(scenarios)}")
    options.short = options.short or options.quick
    return options

"""The command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from faults.runner import OUTPUT
from faults.scenario import Scenario

_EPILOG = """\
examples:
  make faults                     every scenario, each with a seed of its own
  make faults S=F7                one of them
  make faults S="F7 F9" SEED=17   two, with the seed that a report has named
  make faults S=F9 TIMES=10       ten seeds in turn
  make faults-quick               as many as fit into ten minutes, drawn by chance, in short
  make faults A=--docs            all of them, and their figures into docs/reliability.md
  make faults A="--docs --from a.json b.json"    the figures of earlier runs, without another one

Each scenario starts its own PostgreSQL, Valkey, gateways, schedulers and workers on loopback, in a
folder that is deleted afterwards. What is needed to understand a trial that failed is kept in
faults-output, and so is the report of all trials (report.md, report.json). The exit code is 1 when
an invariant or a figure is broken, and 130 after Ctrl-C, which ends every process.
"""


def read_options(scenarios: Mapping[str, Scenario]) -> argparse.Namespace:
    """Reads the command line; ends the program when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m faults",
        description="Faults that Headrace survives, done to real processes under load.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("scenarios", nargs="*", metavar="SCENARIO", help="which ones, F7 for instance; all of them")
    add("--list", action="store_true", help="show which there are and how long they take, and end")
    add("--seed", type=int, help="decides what is left to chance; default: drawn")
    add("--times", type=int, default=1, help="run each so often, with seeds that count up")
    add("--short", action="store_true", help="shorten the long waits: for CI, not for figures")
    add("--keep", action="store_true", help="keep logs and evidence of good trials as well")
    add(
        "--quick",
        action="store_true",
        help="draw as many as fit into --budget, and run them in short",
    )
    add("--budget", type=float, default=10.0, metavar="MINUTES", help="for --quick; default: 10")
    add("--markdown", type=Path, metavar="FILE", default=OUTPUT / "report.md")
    add("--json", type=Path, metavar="FILE", default=OUTPUT / "report.json")
    add("--docs", action="store_true", help="write the figures into docs/reliability.md")
    add(
        "--from",
        dest="earlier",
        nargs="+",
        type=Path,
        default=(),
        metavar="FILE",
        help="take the trials of these reports (--json) and run none",
    )
    options = parser.parse_args()
    options.scenarios = [name.upper() for name in options.scenarios]
    unknown = [name for name in options.scenarios if name not in scenarios]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)} (there are {', '.join(scenarios)})")
    options.short = options.short or options.quick
    return options

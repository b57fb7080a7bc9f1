"""The command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from bench.gate.checkout import (
    ROOT,
    GateFailedError,
    checkout,
    compare_values,
    measure,
    resolve,
    stream_values,
)
from bench.gate.ratios import MAX_ROUNDS, MIN_ROUNDS, Ratio, Values, ratios
from bench.progress import announce
from bench.table import Table

# Measures all figures of a checkout once.
Measure: TypeAlias = Callable[[Path], Values]
Announce: TypeAlias = Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare this checkout with a commit.

    Returns:
        The exit code: 0; 1 if a figure is slower than the limit beyond doubt; 2 if a commit could
        not be built or measured.
    """
    options = _parser().parse_args(arguments)

    def measure_all(folder: Path) -> Values:
        return _measure(folder, options)

    try:
        base = resolve(options.base)
        announce(f"building {base[:12]}")
        rounds = run_rounds(
            checkout(base), ROOT, measure_all, count=options.rounds, announce=announce
        )
    except GateFailedError as error:
        announce(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    found = ratios(rounds)
    print(table(found, base=base[:12]).text())
    slower = [ratio for ratio in found if ratio.is_loss(options.max_loss / 100)]
    for ratio in slower:
        print(
            f"slower beyond doubt: {ratio.name}: {ratio.ratio:.2f} of the speed of {base[:12]} "
            f"(at most {ratio.high:.2f})"
        )
    return 1 if slower else 0


def run_rounds(
    base: Path, new: Path, measure_all: Measure, *, count: int, announce: Announce
) -> list[tuple[Values, Values]]:
    """Measure both checkouts in turn, and return the values of each round.

    The order alternates, so neither commit always runs on a machine that the other has warmed up.

    Args:
        base, new: the checkouts.
        measure_all: measures a checkout once.
        count: the number of rounds.
        announce: receives a line before each step.
    """
    rounds: list[tuple[Values, Values]] = []
    for number in range(1, count + 1):
        values: dict[Path, Values] = {}
        for folder in (base, new) if number % 2 else (new, base):
            side = "the base" if folder == base else "this checkout"
            announce(f"round {number} of {count}: {side}")
            values[folder] = measure_all(folder)
        rounds.append((values[base], values[new]))
    return rounds


def table(found: Sequence[Ratio], *, base: str) -> Table:
    """Return the ratios as a table.

    Args:
        found: the ratios.
        base: the name of the base.
    """
    result = Table(
        "Speed of this checkout; above 1 is faster, or less CPU time",
        ["figure", base, "this checkout", "ratio", "95 % interval"],
    )
    result.rows += (
        (
            one.name,
            f"{one.base:,.4g}",
            f"{one.new:,.4g}",
            f"{one.ratio:.2f}",
            f"{one.low:.2f} to {one.high:.2f}",
        )
        for one in found
    )
    return result


def _measure(folder: Path, options: argparse.Namespace) -> Values:
    arguments = ["--peers", "headrace", "--rounds", "1", "--figures", options.figures]
    arguments += ["--drain", "20000", "--clients", "2"]
    values = compare_values(measure(folder, "bench/compare", arguments))
    if options.streams:
        values |= stream_values(measure(folder, "bench/streams", ["--quick"]))
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python bench/gate",
        description="Compare the speed of this checkout with that of another commit. Both run in "
        "turn on this machine, for about two minutes per round.",
        epilog="Run it on an idle machine. The base is built once in .bench/commits. Uncommitted "
        "changes of this checkout are measured. Among twenty figures, one can fail by chance: "
        "repeat it with --figures.",
    )
    add = parser.add_argument
    add("base", metavar="BASE", help="the commit to compare with, such as main or HEAD~3")
    add(
        "--rounds",
        type=_rounds,
        default=5,
        help=f"rounds of both commits, {MIN_ROUNDS} to {MAX_ROUNDS} (5)",
    )
    add("--figures", default="A,B,C,D", help="figures of bench/compare (A,B,C,D)")
    add(
        "--streams",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the streams too (yes)",
    )
    add(
        "--max-loss",
        type=float,
        default=5.0,
        metavar="PERCENT",
        help="fail if a figure is slower by more than this, beyond doubt (5)",
    )
    return parser


def _rounds(text: str) -> int:
    number = int(text)
    if not MIN_ROUNDS <= number <= MAX_ROUNDS:
        raise argparse.ArgumentTypeError(f"use {MIN_ROUNDS} to {MAX_ROUNDS} rounds")
    return number

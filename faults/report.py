"""The results of trials: a table in a terminal, Markdown, or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from faults.evidence import Recovery
from faults.result import Result

_COLUMNS = (
    *("scenario", "seed", "s", "jobs", "invariants", "verify", "recovered after", "figures"),
    *("run again", "run twice", "accepted twice"),
)
_COLORS = {"good": "green", "broken": "red", "not run": "yellow"}


def show(console: Console, results: Sequence[Result]) -> None:
    """Print the table, then all problems."""
    table = Table(show_lines=True)
    table.add_column("scenario")
    table.add_column("seed", justify="right")
    table.add_column("s", justify="right")
    table.add_column("jobs", justify="right")
    table.add_column("invariants")
    table.add_column("verify")
    table.add_column("recovered after")
    table.add_column("figures")
    for column in ("run again", "run twice", "accepted twice"):
        table.add_column(column, justify="right", max_width=8)
    for result in results:
        table.add_row(
            f"[{_COLORS[result.word]}]{result.scenario}[/]",
            str(result.seed),
            f"{result.seconds:.0f}",
            str(result.counts.jobs),
            " ".join(
                f"[red]{name}✗[/]" if verdict.broken else f"{name}✓"
                for name, verdict in result.verdicts.items()
            ),
            "[red]✗[/]" if result.audit and result.audit.broken else _audit_cell(result),
            "\n".join(map(_recovery_cell, result.recoveries)),
            "\n".join(
                escape(str(figure)) if figure.good else f"[red]{escape(str(figure))}[/]"
                for figure in result.figures
            ),
            str(result.counts.run_again),
            str(result.counts.run_twice),
            str(result.counts.accepted_twice),
        )
    console.print(table)
    for result in results:
        for problem in result.problems():
            console.print(f"[red]✗[/] {result.scenario}, seed {result.seed}: {escape(problem)}")


def as_markdown(results: Sequence[Result]) -> str:
    """Return the same table and problems as Markdown."""
    lines = [
        f"| {' | '.join(_COLUMNS)} |",
        "|---|--:|--:|--:|---|---|---|---|--:|--:|--:|",
    ]
    for result in results:
        cells = (
            result.scenario if result.good else f"{result.scenario} **{result.word}**",
            f"{result.seed}{' (short)' if result.short else ''}",
            f"{result.seconds:.0f}",
            str(result.counts.jobs),
            " ".join(
                f"{name}{'✗' if verdict.broken else '✓'}"
                for name, verdict in result.verdicts.items()
            ),
            _audit_cell(result),
            ", ".join(map(_recovery_cell, result.recoveries)),
            "; ".join(str(figure) if figure.good else f"**{figure}**" for figure in result.figures),
            str(result.counts.run_again),
            str(result.counts.run_twice),
            str(result.counts.accepted_twice),
        )
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    problems = [
        f"- {result.scenario}, seed {result.seed}: {one_line(problem)}"
        for result in results
        for problem in result.problems()
    ]
    if problems:
        lines += ["", "Broken or not run:", "", *problems]
    lines += ["", *circumstances_of(results)]
    return "\n".join(lines) + "\n"


def as_json(results: Sequence[Result]) -> str:
    """Return the results as JSON, without the evidence."""
    return (
        json.dumps([_with_finite_numbers(result.document()) for result in results], indent=1) + "\n"
    )


def read_json(file: Path) -> list[Result]:
    """Read the results from a file that contains the output of `as_json`."""
    return [Result.from_document(document) for document in json.loads(file.read_text())]


def write(text: str, file: Path) -> None:
    """Write a report and create its folder; replace an older report atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.new")
    draft.write_text(text)
    draft.replace(file)


def cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return one_line(text).replace("|", "\\|")


def one_line(text: str) -> str:
    """Return text without line breaks."""
    return " ".join(text.split())


def _audit_cell(result: Result) -> str:
    if result.audit is None:
        return "not run"
    return "✗" if result.audit.broken else "✓"


def _recovery_cell(recovery: Recovery) -> str:
    return "never" if recovery.seconds is None else f"{recovery.seconds:.1f} s"


def circumstances_of(results: Sequence[Result]) -> list[str]:
    """Return the days, commits and machines of the trials, without duplicates."""
    found = {
        "{time}: commit {commit}, {cpu}, {cores} cores, {memory_gib} GiB, {system}, "
        "Python {python}".format(**{**result.circumstances, "time": _day(result)})
        for result in results
        if result.circumstances
    }
    return sorted(found)


def _day(result: Result) -> str:
    return str(result.circumstances["time"])[:10]


def _with_finite_numbers(value: Any) -> Any:
    """Return the value with None for NaN and infinity, which JSON cannot represent."""
    match value:
        case dict():
            return {name: _with_finite_numbers(one) for name, one in value.items()}
        case list() | tuple():
            return [_with_finite_numbers(one) for one in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value

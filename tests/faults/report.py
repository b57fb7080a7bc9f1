"""What came of the trials, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from faults.evidence import Evidence
from faults.invariants import INVARIANTS, Verdict, accepted_twice, run_again, run_twice
from faults.measure import Figure

# How many breaches of an invariant are shown.
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one trial.

    `failure` says why it came to no end, with empty evidence then.
    """

    scenario: str
    title: str
    seed: int
    seconds: float
    verdicts: Mapping[str, Verdict]
    figures: Sequence[Figure]
    evidence: Evidence
    failure: str = ""

    @property
    def good(self) -> bool:
        return (
            not self.failure
            and not any(verdict.broken for verdict in self.verdicts.values())
            and all(figure.good for figure in self.figures)
        )

    def problems(self) -> list[str]:
        """What is wrong, in lines."""
        lines = [self.failure] if self.failure else []
        for invariant, verdict in self.verdicts.items():
            lines += [
                f"{invariant} ({INVARIANTS[invariant].promise}): {broken}"
                for broken in verdict.broken[:_SHOWN]
            ]
            if len(verdict.broken) > _SHOWN:
                lines.append(f"{invariant}: and {len(verdict.broken) - _SHOWN} more")
        lines += [f"figure: {figure}" for figure in self.figures if not figure.good]
        return lines


def show(console: Console, results: Sequence[Result]) -> None:
    """Prints the table, and behind it all that is wrong."""
    table = Table(show_lines=True)
    table.add_column("scenario")
    table.add_column("seed", justify="right")
    table.add_column("s", justify="right")
    table.add_column("jobs", justify="right")
    table.add_column("invariants")
    table.add_column("recovered after")
    table.add_column("figures")
    for column in ("run again", "run twice", "accepted twice"):
        table.add_column(column, justify="right", max_width=8)
    for result in results:
        evidence = result.evidence
        table.add_row(
            f"[{'green' if result.good else 'red'}]{result.scenario}[/]",
            str(result.seed),
            f"{result.seconds:.0f}",
            str(len(evidence.jobs)),
            " ".join(
                f"[red]{name}✗[/]" if verdict.broken else f"{name}✓"
                for name, verdict in result.verdicts.items()
            ),
            "\n".join(
                "never" if recovery.seconds is None else f"{recovery.seconds:.1f} s"
                for recovery in evidence.recoveries
            ),
            "\n".join(
                escape(str(figure)) if figure.good else f"[red]{escape(str(figure))}[/]"
                for figure in result.figures
            ),
            str(run_again(evidence)),
            str(run_twice(evidence)),
            str(len(accepted_twice(evidence))),
        )
    console.print(table)
    for result in results:
        for problem in result.problems():
            console.print(f"[red]✗[/] {result.scenario}, seed {result.seed}: {escape(problem)}")

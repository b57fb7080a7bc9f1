"""The generated section of docs/reliability.md, between two marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from faults import report
from faults.invariants import INVARIANTS
from faults.measure import Figure
from faults.result import Result
from faults.scenario import Scenario

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
BEGIN = "<!-- figures of make faults: begin -->"
END = "<!-- figures of make faults: end -->"

_COLUMNS = (
    *("", "fault", "result", "trials (seeds)", "recovered after"),
    *("attempts run twice", "ends accepted twice", "`headrace verify`"),
)


def publish(scenarios: Iterable[Scenario], results: Sequence[Result], page: Path = PAGE) -> None:
    """Write the results of the trials into the page.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} needs the mark {BEGIN} and, after it, {END}")
    report.write(f"{before}{begin}\n\n{section(scenarios, results)}\n{end}{after}", page)


def section(scenarios: Iterable[Scenario], results: Sequence[Result]) -> str:
    """Return the table of all scenarios, with or without a trial, and the figures of each."""
    table = [
        f"| {' | '.join(_COLUMNS)} |",
        "|---|---|---|---|---|--:|--:|---|",
    ]
    details: list[str] = []
    for scenario in scenarios:
        trials = [result for result in results if result.scenario == scenario.id]
        cells = (scenario.id, scenario.title, *_summary(trials))
        table.append(f"| {' | '.join(map(report.cell, cells))} |")
        if trials:
            details += ["", f"**{scenario.id}** shows {_shown(trials)}.", ""]
            details += [f"- {line}" for line in _figures(trials)]
            details += [
                f"- **{trial.word}**, seed {trial.seed}: {report.one_line(problem)}"
                for trial in trials
                for problem in trial.problems()
            ]
    header = report.circumstances_of(results) or ["No trial has been published yet."]
    return "\n".join([*header, "", *table, *details, ""])


def _summary(trials: Sequence[Result]) -> tuple[str, ...]:
    trials = [trial for trial in trials if not trial.not_run]
    if not trials:
        return ("**no trial**", "", "", "", "", "")
    broken = sum(trial.broken for trial in trials)
    recoveries = [recovery for trial in trials for recovery in trial.recoveries]
    times = [recovery.seconds for recovery in recoveries if recovery.seconds is not None]
    never = len(recoveries) - len(times)
    audits = [trial.audit for trial in trials if trial.audit is not None]
    dirty = sum(bool(audit.broken) for audit in audits)
    return (
        f"**broken in {broken} of {len(trials)}**" if broken else "holds",
        f"{len(trials)} ({', '.join(str(trial.seed) for trial in trials)})"
        + (", short" if any(trial.short for trial in trials) else ""),
        (f"≤ {max(times):.1f} s" if times else "") + (f", {never} never" if never else ""),
        str(sum(trial.counts.run_twice for trial in trials)),
        str(sum(trial.counts.accepted_twice for trial in trials)),
        f"**{dirty} not clean**" if dirty else "clean" if audits else "not run",
    )


def _shown(trials: Sequence[Result]) -> str:
    names = [name for name in INVARIANTS if any(name in trial.verdicts for trial in trials)]
    return ", ".join(names) or "nothing"


def _figures(trials: Sequence[Result]) -> list[str]:
    """Return each figure once, with its worst value of all trials."""
    found: dict[str, list[Figure]] = {}
    for trial in trials:
        for figure in trial.figures:
            found.setdefault(figure.name, []).append(figure)
    return [_worst(figures) for figures in found.values()]


def _worst(figures: Sequence[Figure]) -> str:
    bad = [figure for figure in figures if not figure.good]
    if bad:
        return f"**{bad[0]}**"
    if figures[0].at_least is not None:
        return str(min(figures, key=lambda figure: figure.value))
    return str(max(figures, key=lambda figure: figure.value))

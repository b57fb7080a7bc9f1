"""What was measured, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from bench.compare import accept, answer, memory
from bench.compare.contestant import Contestant
from bench.compare.measurement import Failure, Measurement
from bench.compare.plan import Plan
from bench.compare.summary import Summary, summarize
from bench.compare.targets import Verdict, verdicts
from bench.machine import Machine
from bench.table import Table

_RATE: Final = "jobs_per_s"
_LATENCY: Final = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
# Processes in the order in which a job meets them.
_PROCESSES: Final = (
    *("client", "gateway", "server", "scheduler", "worker"),
    *("postgresql", "valkey"),
)
_MISSING: Final = "–"


@dataclass(slots=True, kw_only=True)
class Report:
    """All figures of one run.

    Args:
        plan: how much was measured.
        machine: where.
        contestants: who took part.
        versions: theirs, by name.
        measurements: every round.
        failures: what came to nothing.
    """

    plan: Plan
    machine: Machine
    contestants: Sequence[Contestant]
    versions: dict[str, str]
    measurements: list[Measurement] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def summaries(self) -> list[Summary]:
        """What the rounds come to."""
        return summarize(self.measurements)

    @property
    def verdicts(self) -> list[Verdict]:
        """The targets."""
        return verdicts(
            self.summaries,
            durable=[one.name for one in self.contestants if one.durable],
            titles={one.name: one.title for one in self.contestants},
        )

    def document(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {
            "machine": self.machine.document(),
            "settings": self.plan.document(),
            "contestants": [
                {**asdict(one), "version": self.versions[one.name]} for one in self.contestants
            ],
            "summaries": [one.document() for one in self.summaries],
            "measurements": [one.document() for one in self.measurements],
            "targets": [
                {**asdict(one), "ratio": one.ratio, "met": one.met, "missed_by": one.missed_by}
                for one in self.verdicts
            ],
            "failures": [asdict(one) for one in self.failures],
        }

    def text(self) -> str:
        """For a terminal."""
        parts = [
            "\n".join(self.machine.lines()),
            *(table.text() for table in self.tables()),
            "\n".join(self._remarks()),
        ]
        return "\n\n".join(part for part in parts if part)

    def markdown(self) -> str:
        """For a page."""
        parts = [
            "\n".join(f"- {line}" for line in [*self.machine.lines(), self._settings()]),
            *(table.markdown() for table in self.tables()),
            "\n".join(f"- {line}" for line in self._remarks()),
        ]
        return "\n\n".join(part for part in parts if part)

    def tables(self) -> list[Table]:
        """All tables that have a row, that of the targets first."""
        tables = [
            self._targets(),
            self._rates("A", "A: waiting jobs that are done, in jobs/s"),
            self._cpu("A", "A: CPU time a job, in µs"),
            self._rates("B", "B: jobs that are accepted, in jobs/s"),
            self._cpu("B", "B: CPU time a job of single submits, in µs", accept.SINGLE),
            self._answers(),
            self._rates("D", "D: from submit to the end at the client, in jobs/s"),
            self._cpu("D", "D: CPU time a job, in µs"),
            self._growth(),
            self._memory(),
            self._keeps(),
        ]
        return [table for table in tables if table.rows]

    def _settings(self) -> str:
        plan = self.plan
        return (
            f"{plan.rounds} round{'s' if plan.rounds > 1 else ''} of each, the contestants in "
            f"turn, and the medians; {plan.gateways} gateway{'s' if plan.gateways > 1 else ''}"
        )

    def _remarks(self) -> list[str]:
        """What is different from what was asked for, and what came to nothing."""
        titles = {one.name: one.title for one in self.contestants}
        remarks = [
            f"{one.figure}, {one.case}: {titles[one.contestant]}: {one.note}"
            for one in self.summaries
            if one.note
        ]
        return remarks + [
            f"{one.figure}: {titles.get(one.contestant, one.contestant)} failed: "
            f"{one.reason.splitlines()[0]}"
            for one in self.failures
        ]

    def _targets(self) -> Table:
        table = Table(
            "Headrace beside the best of each column",
            ["figure", "compared with", "theirs", "Headrace", "ratio", "wanted", ""],
        )
        table.rows += (verdict.cells() for verdict in self.verdicts)
        return table

    def _rates(self, figure: str, title: str) -> Table:
        cases = self._cases(figure)
        table = Table(title, ["", *cases, "keeps"])
        for one, found in self._found(figure):
            cells = [
                f"{found[case].values[_RATE]:,.0f}{'*' if found[case].note else ''}"
                if case in found
                else _MISSING
                for case in cases
            ]
            table.rows.append([one.title, *cells, keeps(one)])
        return table

    def _cpu(self, figure: str, title: str, case: str = "") -> Table:
        """By process, for a case; the first one, unless said otherwise."""
        table = Table(title, ["", *_PROCESSES, "all"])
        for one, found in self._found(figure):
            summary = found.get(case) if case else next(iter(found.values()), None)
            if summary is not None:
                cells = [
                    f"{summary.cpu[name]:,.0f}" if name in summary.cpu else ""
                    for name in _PROCESSES
                ]
                table.rows.append([one.title, *cells, f"{summary.cpu_total:,.0f}"])
        return table

    def _answers(self) -> Table:
        case = answer.case(self.plan)
        table = Table(
            f"C: from submit to the end at the client, at {case}, in ms",
            ["", "p50", "p95", "p99", "max", "CPU µs a job", "keeps"],
        )
        for one, found in self._found("C"):
            if case in found:
                values = [f"{found[case].values[name]:.1f}" for name in _LATENCY]
                cpu = f"{found[case].cpu_total:,.0f}"
                table.rows.append([one.title, *values, cpu, keeps(one)])
        return table

    def _growth(self) -> Table:
        table = Table(
            "E: the same with a lot in the database, in jobs/s",
            ["", "jobs/s", "lowest", "highest", "CPU µs a job", "late p50, p99, max, ms"],
        )
        for summary in self.summaries:
            if summary.figure == "E":
                late = [summary.values.get(f"late_{name}_ms") for name in ("p50", "p99", "max")]
                table.rows.append(
                    [
                        summary.case,
                        f"{summary.values[_RATE]:,.0f}",
                        f"{summary.lowest[_RATE]:,.0f}",
                        f"{summary.highest[_RATE]:,.0f}",
                        f"{summary.cpu_total:,.0f}",
                        ", ".join(f"{value:.0f}" for value in late if value is not None),
                    ]
                )
        return table

    def _memory(self) -> Table:
        case = memory.case(self.plan)
        table = Table("F: memory, in MiB", ["", "at rest", f"after {case}"])
        for summary in self.summaries:
            if summary.figure == "F":
                for name in _PROCESSES:
                    if f"{name}_rest_mib" in summary.values:
                        rest, after = (
                            f"{summary.values[f'{name}_{when}_mib']:.0f}"
                            for when in ("rest", "after")
                        )
                        table.rows.append([name, rest, after])
        return table

    def _keeps(self) -> Table:
        table = Table(
            "Who was compared, and what is left of a job",
            [
                *("", "version", "settings", "row", "history", "result"),
                *("after FLUSHALL", "after kill -9 of the worker"),
            ],
        )
        for one in self.contestants:
            table.rows.append(
                [one.title, self.versions[one.name], one.settings, *one.keeps.cells()]
            )
        return table

    def _cases(self, figure: str) -> list[str]:
        return list(dict.fromkeys(one.case for one in self.summaries if one.figure == figure))

    def _found(self, figure: str) -> list[tuple[Contestant, dict[str, Summary]]]:
        """What was measured of each contestant in a figure, by case."""
        found = []
        for contestant in self.contestants:
            cases = {
                one.case: one
                for one in self.summaries
                if (one.figure, one.contestant) == (figure, contestant.name)
            }
            if cases:
                found.append((contestant, cases))
        return found


def keeps(contestant: Contestant) -> str:
    """What is left of a job, in a few words."""
    said = contestant.keeps
    parts = [
        name
        for name, value in (("row", said.row), ("history", said.history), ("result", said.result))
        if not value.startswith("no")
    ]
    return (
        f"{', '.join(parts) if parts else 'nothing'}; FLUSHALL: {said.flushall}; "
        f"kill -9: {said.kill}"
    )

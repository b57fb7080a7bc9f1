"""The figures of a run as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from bench.compare import accept, latency, memory
from bench.compare.contestant import Contestant
from bench.compare.measurement import Failure, Measurement
from bench.compare.plan import Plan
from bench.compare.summary import Summary, summarize
from bench.compare.targets import TargetResult, target_results
from bench.machine import Machine
from bench.table import Table

_RATE: Final = "jobs_per_s"
_LATENCY: Final = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
# In the order in which a job passes through the processes, with the servers last.
_PROCESSES: Final = (
    *("client", "gateway", "server", "scheduler", "worker"),
    *("postgresql", "valkey"),
)
_MISSING: Final = "–"


@dataclass(slots=True, kw_only=True)
class Report:
    """All measured figures of one run.

    Args:
        plan: the settings of the run.
        machine: the machine that ran the measurements.
        contestants: the contestants of the run.
        versions: the contestants' versions, by name.
        measurements: the measurements of all rounds.
        failures: the failed measurements.
    """

    plan: Plan
    machine: Machine
    contestants: Sequence[Contestant]
    versions: dict[str, str]
    measurements: list[Measurement] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def summaries(self) -> list[Summary]:
        """The measurements, with the rounds combined."""
        return summarize(self.measurements)

    @property
    def target_results(self) -> list[TargetResult]:
        """All targets with their measured ratios."""
        return target_results(
            self.summaries,
            durable=[one.name for one in self.contestants if one.durable],
            titles={one.name: one.title for one in self.contestants},
        )

    def document(self) -> dict[str, object]:
        """Return the report as JSON data."""
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
                for one in self.target_results
            ],
            "failures": [asdict(one) for one in self.failures],
        }

    def text(self) -> str:
        """Return the report for a terminal."""
        parts = [
            "\n".join(self.machine.lines()),
            *(table.text() for table in self.tables()),
            "\n".join(self._remarks()),
        ]
        return "\n\n".join(part for part in parts if part)

    def markdown(self) -> str:
        """Return the report in Markdown."""
        parts = [
            "\n".join(f"- {line}" for line in [*self.machine.lines(), self._settings()]),
            *(table.markdown() for table in self.tables()),
            "\n".join(f"- {line}" for line in self._remarks()),
        ]
        return "\n\n".join(part for part in parts if part)

    def tables(self) -> list[Table]:
        """Return all tables with at least one row; the targets come first."""
        tables = [
            self._targets_table(),
            self._rates_table("A", "A: waiting jobs drained, in jobs/s"),
            self._cpu_table("A", "A: CPU time per job, in µs"),
            self._rates_table("B", "B: jobs accepted, in jobs/s"),
            self._cpu_table("B", "B: CPU time per job of single submits, in µs", accept.SINGLE),
            self._latency_table(),
            self._rates_table("D", "D: jobs from submit to known end, in jobs/s"),
            self._cpu_table("D", "D: CPU time per job, in µs"),
            self._growth_table(),
            self._memory_table(),
            self._keeps_table(),
        ]
        return [table for table in tables if table.rows]

    def _settings(self) -> str:
        plan = self.plan
        return (
            f"{plan.rounds} round{'s' if plan.rounds > 1 else ''} per measurement with the "
            "contestants in turn; the tables show medians; "
            f"{plan.gateways} gateway{'s' if plan.gateways > 1 else ''}"
        )

    def _remarks(self) -> list[str]:
        """Return the deviations from the plan and the failures, one per line."""
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

    def _targets_table(self) -> Table:
        table = Table(
            "Headrace and the best peers",
            ["figure", "peer", "peer's value", "Headrace", "ratio", "target", "result"],
        )
        table.rows += (result.cells() for result in self.target_results)
        return table

    def _rates_table(self, figure: str, title: str) -> Table:
        cases = self._cases(figure)
        table = Table(title, ["", *cases, "keeps"])
        for one, found in self._measured_contestants(figure):
            cells = [
                f"{found[case].values[_RATE]:,.0f}{'*' if found[case].note else ''}"
                if case in found
                else _MISSING
                for case in cases
            ]
            table.rows.append([one.title, *cells, kept_data(one)])
        return table

    def _cpu_table(self, figure: str, title: str, case: str = "") -> Table:
        """Return the CPU time by process for a case, by default the first case of the figure."""
        table = Table(title, ["", *_PROCESSES, "all"])
        for one, found in self._measured_contestants(figure):
            summary = found.get(case) if case else next(iter(found.values()), None)
            if summary is not None:
                cells = [
                    f"{summary.cpu[name]:,.0f}" if name in summary.cpu else ""
                    for name in _PROCESSES
                ]
                table.rows.append([one.title, *cells, f"{summary.cpu_total:,.0f}"])
        return table

    def _latency_table(self) -> Table:
        case = latency.case(self.plan)
        table = Table(
            f"C: time from submit to known end, at {case}, in ms",
            [
                *("", "p50", "p95", "p99", "max"),
                *("CPU µs per job", "wake-ups per job", "WAL bytes per job", "keeps"),
            ],
        )
        for one, found in self._measured_contestants("C"):
            if case in found:
                values = [f"{found[case].values[name]:.1f}" for name in _LATENCY]
                costs = [
                    f"{found[case].cpu_total:,.0f}",
                    f"{found[case].values['wake_ups_per_job']:,.0f}",
                    f"{found[case].values['wal_bytes_per_job']:,.0f}"
                    if "postgresql" in one.servers
                    else _MISSING,
                ]
                table.rows.append([one.title, *values, *costs, kept_data(one)])
        return table

    def _growth_table(self) -> Table:
        table = Table(
            "E: jobs from submit to known end, by contents of the database, in jobs/s",
            ["", "jobs/s", "lowest", "highest", "CPU µs per job", "delay p50, p99, max, ms"],
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

    def _memory_table(self) -> Table:
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

    def _keeps_table(self) -> Table:
        table = Table(
            "Contestants, and the data that they keep about a job",
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

    def _measured_contestants(self, figure: str) -> list[tuple[Contestant, dict[str, Summary]]]:
        """Return the contestants measured in a figure, and their summaries by case."""
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


def kept_data(contestant: Contestant) -> str:
    """Return the data that a contestant keeps about a job, in a few words."""
    kept = contestant.keeps
    parts = [
        name
        for name, value in (("row", kept.row), ("history", kept.history), ("result", kept.result))
        if not value.startswith("no")
    ]
    return (
        f"{', '.join(parts) if parts else 'nothing'}; FLUSHALL: {kept.flushall}; "
        f"kill -9: {kept.kill}"
    )

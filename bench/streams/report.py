"""The figures of a run as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from bench.machine import Machine
from bench.streams.delay import Delay
from bench.streams.memory import Memory
from bench.streams.peer import PollingFigures
from bench.streams.plan import Plan
from bench.streams.throughput import Throughput
from bench.table import Table

# The targets.
TARGET_STREAMS: Final = 1000
TARGET_P99_MS: Final = 50.0
TARGET_IDLE_KIB: Final = 60_000 / 1024

_CPU: Final = ("gateway", "postgresql", "valkey", "writer", "readers", "idle readers")


@dataclass(slots=True, kw_only=True)
class Report:
    """All figures of one run."""

    plan: Plan
    machine: Machine
    delays: list[Delay] = field(default_factory=list)
    pollings: list[PollingFigures] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    throughputs: list[Throughput] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """True if every stream received every event once and in order."""
        return all(delay.exact for delay in self.delays) and not any(
            throughput.missing for throughput in self.throughputs
        )

    def document(self) -> dict[str, object]:
        """Return the report as JSON data."""
        return {
            "machine": self.machine.document(),
            "settings": self.plan.document(),
            "latency": [asdict(delay) for delay in self.delays],
            "polling": [asdict(polling) for polling in self.pollings],
            "memory": [
                {**asdict(memory), "kib_per_stream": memory.kib_per_stream}
                for memory in self.memories
            ],
            "throughput": [asdict(throughput) for throughput in self.throughputs],
            "exact": self.exact,
        }

    def text(self) -> str:
        """Return the report for a terminal."""
        parts = [
            "\n".join(self.machine.lines()),
            *(table.text() for table in self._tables()),
            "\n".join(self._conclusions()),
        ]
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """Return the report in Markdown."""
        parts = [
            "\n".join(f"- {line}" for line in [*self.machine.lines(), self._settings()]),
            *(table.markdown() for table in self._tables()),
            "\n".join(f"- {line}" for line in self._conclusions()),
        ]
        return "\n\n".join(parts)

    def _settings(self) -> str:
        plan = self.plan
        return (
            f"{plan.rounds} rounds of {plan.seconds:g} s after {plan.warm_up:g} s of warm-up, "
            f"{plan.mix} of calls, over up to {plan.channels} connections, seed {plan.seed}"
        )

    def _tables(self) -> list[Table]:
        tables = [self._latency_table(), self._cpu_table()]
        if self.pollings:
            tables.append(self._polling_table())
        if self.memories:
            tables.append(self._idle_table())
        if self.throughputs:
            tables.append(self._throughput_table())
        return tables

    def _latency_table(self) -> Table:
        table = Table(
            f"From commit to client at {self.plan.rate:g} events/s, in ms",
            [
                "open streams",
                "p50",
                "p95",
                "p99",
                "max",
                "p99 of the best round",
                "commit p50, p99",
            ],
        )
        for delay in self.delays:
            whole = delay.whole
            table.rows.append(
                [
                    _streams_label(delay),
                    *(f"{value:.1f}" for value in (whole.p50, whole.p95, whole.p99, whole.max)),
                    f"{delay.best.p99:.1f}",
                    f"{delay.commits.p50:.1f}, {delay.commits.p99:.1f}",
                ]
            )
        return table

    def _cpu_table(self) -> Table:
        table = Table("CPU time during the measurement, in % of a core", ["open streams", *_CPU])
        for delay in self.delays:
            table.rows.append([_streams_label(delay), *_percents(delay.cpu)])
        for polling in self.pollings:
            name = f"none, {polling.clients} clients poll"
            table.rows.append([name, *_percents(polling.cpu)])
        return table

    def _polling_table(self) -> Table:
        table = Table(
            f"Clients that poll GetJob, at {self.plan.rate:g} events/s",
            ["clients", "every, ms", "calls/s", "p50, ms", "p99, ms", "transitions seen"],
        )
        for polling in self.pollings:
            table.rows.append(
                [
                    f"{polling.clients}",
                    f"{polling.interval * 1000:.0f}",
                    f"{polling.calls:.0f}",
                    f"{polling.latency.p50:.1f}",
                    f"{polling.latency.p99:.1f}",
                    f"{polling.seen:.0%}",
                ]
            )
        return table

    def _idle_table(self) -> Table:
        table = Table(
            "Idle streams: memory and CPU time of the gateway",
            ["call", "streams", "connections", "KiB per stream", "marks/s", "% of a core"],
        )
        for memory in self.memories:
            table.rows.append(
                [
                    memory.kind,
                    f"{memory.streams:,}",
                    f"{memory.channels}",
                    f"{memory.kib_per_stream:.1f}",
                    f"{memory.marks:.0f}",
                    f"{memory.cpu:.0%}".removesuffix("%"),
                ]
            )
        return table

    def _throughput_table(self) -> Table:
        table = Table("One WatchJobs stream, in events/s", ["events", "live", "from a cursor"])
        for throughput in self.throughputs:
            table.rows.append(
                [
                    f"{throughput.events:,}",
                    f"{throughput.live:,.0f}",
                    f"{throughput.catch_up:,.0f}",
                ]
            )
        return table

    def _conclusions(self) -> list[str]:
        lines = []
        for delay in self.delays:
            if delay.streams == TARGET_STREAMS and not delay.idle:
                measured = f"p99 with {TARGET_STREAMS:,} streams: {delay.whole.p99:.1f} ms"
                lines.append(f"{measured} (target: at most {TARGET_P99_MS:g} ms)")
        if self.memories:
            worst = max(memory.kib_per_stream for memory in self.memories)
            lines.append(
                f"memory per idle stream: {worst:.1f} KiB (target: at most {TARGET_IDLE_KIB:.1f})"
            )
        skew = max((abs(delay.skew_ms) for delay in self.delays), default=0.0)
        lines.append(f"difference between the clocks of database and readers: {skew:.3f} ms")
        lines.append(
            "every stream received every event once and in order"
            if self.exact
            else "EVENTS WERE LOST, REPEATED OR REORDERED; see the JSON output"
        )
        return lines


def _streams_label(delay: Delay) -> str:
    return f"{delay.streams:,}" + (f" and {delay.idle:,} idle" if delay.idle else "")


def _percents(cpu: Mapping[str, float]) -> list[str]:
    return [f"{cpu[name] * 100:.0f}" if name in cpu else "" for name in _CPU]

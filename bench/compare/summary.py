"""Summaries of the rounds of a measurement."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from bench.compare.measurement import Measurement
from bench.latency import Latency

_LATENCY: Final = ("p50", "p95", "p99", "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All rounds of one contestant in one case.

    Args:
        figure: the figure's letter.
        contestant: the contestant's name.
        case: the column of the figure's table.
        rounds: the number of rounds.
        values: the median of each value; for latencies, the percentiles over all rounds.
        lowest: the minimum of each value.
        highest: the maximum of each value.
        cpu: the median of the CPU microseconds per job, by process.
        note: the deviation from the plan, if any.
    """

    figure: str
    contestant: str
    case: str
    rounds: int
    values: Mapping[str, float]
    lowest: Mapping[str, float]
    highest: Mapping[str, float]
    cpu: Mapping[str, float]
    note: str

    @property
    def cpu_total(self) -> float:
        """The CPU microseconds per job, summed over all processes including the client."""
        return sum(self.cpu.values())

    def document(self) -> dict[str, object]:
        """Return the summary as JSON data."""
        return {**asdict(self), "cpu_total": self.cpu_total}


def summarize(measurements: Iterable[Measurement]) -> list[Summary]:
    """Return a summary per contestant and case, in the order of their first measurements."""
    grouped: dict[tuple[str, str, str], list[Measurement]] = {}
    for one in measurements:
        grouped.setdefault((one.figure, one.contestant, one.case), []).append(one)
    return [_summary(rounds) for rounds in grouped.values()]


def _summary(rounds: list[Measurement]) -> Summary:
    first = rounds[0]
    names = first.values.keys()
    values = {name: statistics.median(one.values[name] for one in rounds) for name in names}
    samples = [sample for one in rounds for sample in one.samples]
    if samples:
        latency = Latency.of(samples)
        values |= {f"{name}_ms": latency.document()[name] for name in _LATENCY}
        values["jobs"] = latency.count
    return Summary(
        figure=first.figure,
        contestant=first.contestant,
        case=first.case,
        rounds=len(rounds),
        values=values,
        lowest={name: min(one.values[name] for one in rounds) for name in names},
        highest={name: max(one.values[name] for one in rounds) for name in names},
        cpu={
            name: statistics.median(one.cpu.get(name, 0.0) for one in rounds) for name in first.cpu
        },
        note=rounds[-1].note,
    )

"""The targets: ratios to the best peer in the same run, because machines differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.compare import accept, end_to_end, growth
from bench.compare.contestant import HEADRACE
from bench.compare.summary import Summary

_RATE: Final = "jobs_per_s"
# Ratios to the best and the second best peer, by the number of worker processes.
DRAIN_RATIOS: Final = {1: (1.0, 2.5), 2: (0.7, 2.0)}
BULK_RATIO: Final = 0.8
# The fastest peers do not persist jobs, so the target refers to a durable peer.
SINGLE_RATIO: Final = ("oban", 1.3)
DURABLE_LATENCY_RATIO: Final = 0.6
LATENCY_RATIO: Final = ("celery", 1.0)
END_TO_END_RATIO: Final = 30.0
GROWTH_RATIO: Final = 0.9
# The rank in CPU time per job that Headrace should reach.
CPU_RANK: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetResult:
    """One target with the measured values.

    Args:
        figure: the name of the figure.
        peer: the peer's title.
        theirs: the peer's value.
        ours: Headrace's value.
        unit: the unit of both values.
        wanted: the target ratio.
        at_least: True if the ratio should be at least `wanted`, False if at most.
    """

    figure: str
    peer: str
    theirs: float
    ours: float
    unit: str
    wanted: float
    at_least: bool

    @property
    def ratio(self) -> float:
        """Headrace's value divided by the peer's value."""
        return self.ours / self.theirs if self.theirs else float("inf")

    @property
    def met(self) -> bool:
        """True if the target is met."""
        return self.ratio >= self.wanted if self.at_least else self.ratio <= self.wanted

    @property
    def missed_by(self) -> float:
        """The deviation from the target, as a share of the target; 0 if it is met."""
        if self.met:
            return 0.0
        share = self.ratio / self.wanted
        return 1 - share if self.at_least else share - 1

    def cells(self) -> list[str]:
        """Return the cells of a table row."""
        sign = "≥" if self.at_least else "≤"
        return [
            self.figure,
            self.peer,
            f"{_format_number(self.theirs)} {self.unit}",
            f"{_format_number(self.ours)} {self.unit}",
            f"{self.ratio:.2f}",
            f"{sign} {self.wanted:g}",
            "met" if self.met else f"missed by {self.missed_by:.1%}",
        ]


def target_results(
    summaries: Sequence[Summary], *, durable: Iterable[str], titles: dict[str, str]
) -> list[TargetResult]:
    """Return the results of all targets with measured figures.

    Args:
        summaries: the summaries of the run.
        durable: the names of the contestants whose jobs survive the loss of Redis.
        titles: the titles of all contestants, by name.
    """
    durable = set(durable)

    def result(
        figure: str, peer: Summary, ours: Summary, wanted: float, value: str = _RATE
    ) -> TargetResult:
        rate = value == _RATE
        return TargetResult(
            figure=figure,
            peer=titles[peer.contestant],
            theirs=peer.values[value],
            ours=ours.values[value],
            unit="/s" if rate else "ms",
            wanted=wanted,
            at_least=rate,
        )

    found: list[TargetResult] = []
    for case in _cases_of(summaries, "A"):
        ours, peers = _ours_and_peers(summaries, "A", case)
        ranked = sorted(peers, key=lambda one: -one.values[_RATE])
        workers = 2 if ", 2 " in case else 1
        if ours:
            found += (
                result(f"A, {case}", peer, ours, wanted)
                for peer, wanted in zip(ranked, DRAIN_RATIOS[workers], strict=False)
            )
    ours, peers = _ours_and_peers(summaries, "B", accept.BULK)
    if ours and peers:
        best = max(peers, key=lambda one: one.values[_RATE])
        found.append(result("B, bulk", best, ours, BULK_RATIO))
    ours, peers = _ours_and_peers(summaries, "B", accept.SINGLE)
    found += (
        result("B, single", peer, ours, SINGLE_RATIO[1])
        for peer in peers
        if ours and peer.contestant == SINGLE_RATIO[0]
    )
    for case in _cases_of(summaries, "C"):
        ours, peers = _ours_and_peers(summaries, "C", case)
        if not ours:
            continue
        durable_peers = [peer for peer in peers if peer.contestant in durable]
        for value in ("p50_ms", "p99_ms"):
            figure = f"C, {value.removesuffix('_ms')}"
            if durable_peers:
                best = min(durable_peers, key=lambda one: one.values[value])
                found.append(result(f"{figure}, durable", best, ours, DURABLE_LATENCY_RATIO, value))
            found += (
                result(figure, peer, ours, LATENCY_RATIO[1], value)
                for peer in peers
                if peer.contestant == LATENCY_RATIO[0]
            )
    ours, peers = _ours_and_peers(summaries, "D", end_to_end.ENDS)
    if ours and peers:
        best = max(peers, key=lambda one: one.values[_RATE])
        found.append(result("D", best, ours, END_TO_END_RATIO))
    return [*found, *_growth_results(summaries), *_cpu_results(summaries, titles)]


def _growth_results(summaries: Sequence[Summary]) -> list[TargetResult]:
    [*empty] = (one for one in summaries if one.figure == "E" and one.case == growth.EMPTY)
    return [
        TargetResult(
            figure=f"E, {one.case}",
            peer=growth.EMPTY,
            theirs=base.values[_RATE],
            ours=one.values[_RATE],
            unit="/s",
            wanted=GROWTH_RATIO,
            at_least=True,
        )
        for base in empty
        for one in summaries
        if one.figure == "E" and one.case != growth.EMPTY
    ]


def _cpu_results(summaries: Sequence[Summary], titles: dict[str, str]) -> list[TargetResult]:
    """Compare the CPU time per drained job with the peer at rank `CPU_RANK`."""
    for case in _cases_of(summaries, "A")[:1]:
        ours, peers = _ours_and_peers(summaries, "A", case)
        ranked = sorted(peers, key=lambda one: one.cpu_total)
        if ours and ours.cpu and len(ranked) >= CPU_RANK:
            peer = ranked[CPU_RANK - 1]
            return [
                TargetResult(
                    figure=f"CPU time per job, {case} (lowest: {titles[ranked[0].contestant]})",
                    peer=titles[peer.contestant],
                    theirs=peer.cpu_total,
                    ours=ours.cpu_total,
                    unit="µs",
                    wanted=1.0,
                    at_least=False,
                )
            ]
    return []


def _cases_of(summaries: Iterable[Summary], figure: str) -> list[str]:
    return list(dict.fromkeys(one.case for one in summaries if one.figure == figure))


def _ours_and_peers(
    summaries: Iterable[Summary], figure: str, case: str
) -> tuple[Summary | None, list[Summary]]:
    """Return the summary of Headrace and the summaries of the peers."""
    chosen = [one for one in summaries if (one.figure, one.case) == (figure, case)]
    ours = next((one for one in chosen if one.contestant == HEADRACE), None)
    return ours, [one for one in chosen if one.contestant != HEADRACE]


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"

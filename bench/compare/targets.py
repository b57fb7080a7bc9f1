"""What is aimed at: ratios to the best peer of the same run, since machines differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.compare import accept, end_to_end, growth
from bench.compare.contestant import HEADRACE
from bench.compare.summary import Summary

_RATE: Final = "jobs_per_s"
# By the number of worker processes: how fast in comparison with the best, and with the second.
DRAIN: Final = {1: (1.0, 2.5), 2: (0.7, 2.0)}
BULK: Final = 0.8
# Compared by name: those that are faster keep nothing.
SINGLE: Final = ("oban", 1.3)
LATENCY_DURABLE: Final = 0.6
LATENCY: Final = ("celery", 1.0)
END_TO_END: Final = 30.0
GROWTH: Final = 0.9
# Whose CPU time may be lower.
CPU_PLACE: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One target and what was measured.

    Args:
        what: which figure.
        peer: with whom Headrace is compared.
        theirs: the peer's figure.
        ours: that of Headrace.
        unit: of both.
        wanted: the ratio that is aimed at.
        least: whether it should be at least that, and not at most.
    """

    what: str
    peer: str
    theirs: float
    ours: float
    unit: str
    wanted: float
    least: bool

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs if self.theirs else float("inf")

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.ratio >= self.wanted if self.least else self.ratio <= self.wanted

    @property
    def missed_by(self) -> float:
        """The part of the target that is lacking, or that is too much; 0 when it is met."""
        if self.met:
            return 0.0
        share = self.ratio / self.wanted
        return 1 - share if self.least else share - 1

    def cells(self) -> list[str]:
        """For a row of a table."""
        sign = "≥" if self.least else "≤"
        return [
            self.what,
            self.peer,
            f"{_number(self.theirs)} {self.unit}",
            f"{_number(self.ours)} {self.unit}",
            f"{self.ratio:.2f}",
            f"{sign} {self.wanted:g}",
            "met" if self.met else f"missed by {self.missed_by:.1%}",
        ]


def verdicts(
    summaries: Sequence[Summary], *, durable: Iterable[str], titles: dict[str, str]
) -> list[Verdict]:
    """All targets for which there are figures.

    Args:
        summaries: what was measured.
        durable: the names of the contestants that keep their jobs.
        titles: of all contestants, by name.
    """
    durable = set(durable)

    def verdict(
        what: str, peer: Summary, ours: Summary, wanted: float, value: str = _RATE
    ) -> Verdict:
        rate = value == _RATE
        return Verdict(
            what=what,
            peer=titles[peer.contestant],
            theirs=peer.values[value],
            ours=ours.values[value],
            unit="/s" if rate else "ms",
            wanted=wanted,
            least=rate,
        )

    found: list[Verdict] = []
    for case in _cases(summaries, "A"):
        ours, peers = _split(summaries, "A", case)
        ranked = sorted(peers, key=lambda one: -one.values[_RATE])
        workers = 2 if ", 2 " in case else 1
        if ours:
            found += (
                verdict(f"A, {case}", peer, ours, wanted)
                for peer, wanted in zip(ranked, DRAIN[workers], strict=False)
            )
    ours, peers = _split(summaries, "B", accept.BULK)
    if ours and peers:
        best = max(peers, key=lambda one: one.values[_RATE])
        found.append(verdict("B, bulk", best, ours, BULK))
    ours, peers = _split(summaries, "B", accept.SINGLE)
    found += (
        verdict("B, single", peer, ours, SINGLE[1])
        for peer in peers
        if ours and peer.contestant == SINGLE[0]
    )
    for case in _cases(summaries, "C"):
        ours, peers = _split(summaries, "C", case)
        if not ours:
            continue
        kept = [peer for peer in peers if peer.contestant in durable]
        for value in ("p50_ms", "p99_ms"):
            what = f"C, {value.removesuffix('_ms')}"
            if kept:
                best = min(kept, key=lambda one: one.values[value])
                found.append(verdict(f"{what}, durable", best, ours, LATENCY_DURABLE, value))
            found += (
                verdict(what, peer, ours, LATENCY[1], value)
                for peer in peers
                if peer.contestant == LATENCY[0]
            )
    ours, peers = _split(summaries, "D", end_to_end.ENDS)
    if ours and peers:
        best = max(peers, key=lambda one: one.values[_RATE])
        found.append(verdict("D", best, ours, END_TO_END))
    return [*found, *_growth(summaries), *_cpu(summaries, titles)]


def _growth(summaries: Sequence[Summary]) -> list[Verdict]:
    [*empty] = (one for one in summaries if one.figure == "E" and one.case == growth.EMPTY)
    return [
        Verdict(
            what=f"E, {one.case}",
            peer=growth.EMPTY,
            theirs=base.values[_RATE],
            ours=one.values[_RATE],
            unit="/s",
            wanted=GROWTH,
            least=True,
        )
        for base in empty
        for one in summaries
        if one.figure == "E" and one.case != growth.EMPTY
    ]


def _cpu(summaries: Sequence[Summary], titles: dict[str, str]) -> list[Verdict]:
    """CPU time for each job that is drained: whose may be lower is left out."""
    for case in _cases(summaries, "A")[:1]:
        ours, peers = _split(summaries, "A", case)
        ranked = sorted(peers, key=lambda one: one.cpu_total)
        if ours and ours.cpu and len(ranked) >= CPU_PLACE:
            peer = ranked[CPU_PLACE - 1]
            return [
                Verdict(
                    what=f"CPU time a job, {case}: second only to {titles[ranked[0].contestant]}",
                    peer=titles[peer.contestant],
                    theirs=peer.cpu_total,
                    ours=ours.cpu_total,
                    unit="µs",
                    wanted=1.0,
                    least=False,
                )
            ]
    return []


def _cases(summaries: Iterable[Summary], figure: str) -> list[str]:
    return list(dict.fromkeys(one.case for one in summaries if one.figure == figure))


def _split(
    summaries: Iterable[Summary], figure: str, case: str
) -> tuple[Summary | None, list[Summary]]:
    """Ours, and those of the peers."""
    chosen = [one for one in summaries if (one.figure, one.case) == (figure, case)]
    ours = next((one for one in chosen if one.contestant == HEADRACE), None)
    return ours, [one for one in chosen if one.contestant != HEADRACE]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"

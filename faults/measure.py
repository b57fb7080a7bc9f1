"""Figures: percentiles, throughput, and when it was back."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from faults.evidence import EventRow, Recovery
from faults.invariants import TOLERANCE
from headrace_core.domain.lifecycle import TERMINAL, EventType

# Throughput is judged over windows of so many seconds, tried at each step.
_WINDOW_S = 3.0
_STEP_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that a scenario has measured, and up to where it is good.

    A figure without a limit is only told.
    """

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def good(self) -> bool:
        if math.isnan(self.value):
            return False
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def __str__(self) -> str:
        text = f"{self.name} {self.value:.3g} {self.unit}".rstrip()
        if self.value >= 1000 or float(self.value).is_integer():
            text = f"{self.name} {self.value:.0f} {self.unit}".rstrip()
        for sign, limit in (("≤", self.at_most), ("≥", self.at_least)):
            if limit is not None:
                text += f" ({sign} {limit:g})"
        return text


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values don't exceed; NaN when there are none."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def ends(events: Iterable[EventRow]) -> list[float]:
    """When jobs have ended, in order, in seconds since 1970."""
    return sorted(event.time.timestamp() for event in events if event.state in TERMINAL)


def claim_waits(events: Iterable[EventRow], *, since: float, until: float) -> list[float]:
    """For how many seconds jobs have waited for a worker, those that became ready in this time.

    Args:
        events: in the order of jobs and numbers.
        since, until: seconds since 1970.
    """
    waits = []
    ready: EventRow | None = None
    for event in events:
        if event.type is EventType.STARTED:
            if ready is not None and ready.job_id == event.job_id:
                began = ready.time.timestamp()
                if since <= began < until:
                    waits.append(event.time.timestamp() - began)
            ready = None
        elif event.state == "queued":
            ready = event
    return waits


def recovery(
    what: str,
    times: Sequence[float],
    *,
    steady: tuple[float, float],
    end: float,
    last: float,
    limit: float,
) -> Recovery:
    """When 90 % of the throughput was back: the end of the first window that has it, and after
    which it stays, on average, for as long as it might have taken.

    A backlog that is worked off at once, and nothing after it, is no recovery.

    Args:
        what: the fault.
        times: when jobs ended, in order.
        steady: from when to when the load ran undisturbed.
        end: when the fault was over.
        last: up to when the load ran.
        limit: the most seconds it may take.
    """

    def count(since: float, until: float) -> int:
        return bisect_left(times, until) - bisect_left(times, since)

    before = count(*steady) / (steady[1] - steady[0])
    enough = before * (1 - TOLERANCE)
    begin = end
    while begin + _WINDOW_S <= last:
        window = begin + _WINDOW_S
        stays = max(window, min(end + limit, last))
        if all(count(begin, to) >= enough * (to - begin) for to in (window, stays)):
            seconds = window - end
            return Recovery(what=what, before=before, seconds=seconds, limit=limit)
        begin += _STEP_S
    return Recovery(what=what, before=before, seconds=None, limit=limit)

"""Figures: percentiles, waits and the recovery of the throughput."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from faults.evidence import EventRow, Recovery
from faults.invariants import TOLERANCE
from headrace_core.domain.lifecycle import TERMINAL, EventType

# Length and step of the sliding window over which the throughput is measured, in seconds.
_WINDOW_S = 3.0
_STEP_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured number and its limits. A figure without a limit is only reported."""

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
    """Return the value that `share` (0 to 1) of the values do not exceed; NaN without values."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def ends(events: Iterable[EventRow]) -> list[float]:
    """Return the sorted end times of jobs, in seconds since 1970."""
    return sorted(event.time.timestamp() for event in events if event.state in TERMINAL)


def claim_waits(events: Iterable[EventRow], *, since: float, until: float) -> list[float]:
    """Return the claim waits of jobs that became ready in an interval, in seconds.

    Args:
        events: ordered by job and number.
        since, until: the interval, in seconds since 1970.
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
    """Return the time from the end of a fault until 90 % of the throughput returned.

    The recovery ends with the first window of 3 s that has this throughput, if the average up to
    the limit has it too. A burst from the backlog, followed by a pause, therefore does not count.

    Args:
        what: the fault.
        times: the end times of jobs, in order, in seconds since 1970.
        steady: start and end of the undisturbed load, in seconds since 1970.
        end: the end of the fault, in seconds since 1970.
        last: the end of the load, in seconds since 1970.
        limit: the longest recovery allowed, in seconds.
    """

    def count(since: float, until: float) -> int:
        return bisect_left(times, until) - bisect_left(times, since)

    before = count(*steady) / (steady[1] - steady[0])
    enough = before * (1 - TOLERANCE)
    start = end
    while start + _WINDOW_S <= last:
        window = start + _WINDOW_S
        last_window = max(window, min(end + limit, last))
        if all(count(start, to) >= enough * (to - start) for to in (window, last_window)):
            seconds = window - end
            return Recovery(what=what, before=before, seconds=seconds, limit=limit)
        start += _STEP_S
    return Recovery(what=what, before=before, seconds=None, limit=limit)

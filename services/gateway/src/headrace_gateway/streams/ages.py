"""How old events were: counted in buckets, cheaply."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Final

from headrace_core.domain.job import JobEvent

# Upper bounds of the buckets, in seconds; above the last one is one more.
BOUNDS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)


class Ages:
    """A histogram of the ages of events. It is written in one thread, and read in any.

    Attributes:
        total: all ages together, in seconds.
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, events: Sequence[JobEvent], *, now: float) -> None:
        """Counts events.

        Args:
            events: with their times.
            now: by the same clock, in seconds since 1970.
        """
        counts, total = self._counts, 0.0
        moment = datetime.fromtimestamp(now, UTC)
        for event in events:
            age = (moment - event.time).total_seconds()
            counts[bisect_left(BOUNDS, age)] += 1
            total += age
        # The clock is known to some fraction of a millisecond, so a fresh event may come out as not
        # yet written.
        self.total += max(0.0, total)

    def cumulated(self) -> list[int]:
        """How many were at most as old as each bound says; the last one has all."""
        return list(accumulate(self._counts))

"""A histogram, as Prometheus defines it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate


class Histogram:
    """Counts numbers by size. One thread writes it, and any thread may read it.

    Args:
        limits: the upper limits of the buckets, in ascending order; one more bucket counts larger
            numbers.

    Attributes:
        total: the sum of all numbers. It never decreases, as Prometheus requires.
    """

    __slots__ = ("_counts", "_limits", "total")

    def __init__(self, limits: Sequence[float]) -> None:
        self._limits = limits
        self._counts = [0] * (len(limits) + 1)
        self.total = 0.0

    def count(self, numbers: Iterable[float]) -> None:
        """Count numbers."""
        counts, limits, total = self._counts, self._limits, 0.0
        for number in numbers:
            counts[bisect_left(limits, number)] += 1
            total += number
        self.total += max(0.0, total)

    def cumulative(self) -> list[int]:
        """Return how many numbers are at most each limit; the last element counts all."""
        return list(accumulate(self._counts))

    def buckets(self) -> list[tuple[str, float]]:
        """Return the elements of `cumulative` with the names of their limits in Prometheus."""
        names = (*map(str, self._limits), "+Inf")
        return list(zip(names, self.cumulative(), strict=True))

"""Counts over a period that ends now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# A count leaves the period late by at most this share of the period.
_SLOTS: Final = 100


class RollingCounts(Generic[K]):
    """Counts by key over the last `seconds`. Adding and expiring change a sum, so reading is cheap.

    Args:
        seconds: the length of the period.
        max_keys: the maximum number of keys; further keys are not counted.

    Attributes:
        total: the counts of the period, after `expire`.
    """

    def __init__(self, seconds: float, *, max_keys: int = 1000) -> None:
        self.seconds = seconds
        self.total: Counter[K] = Counter()
        self._max_keys = max_keys
        self._slots: dict[int, Counter[K]] = {}

    def add(self, key: K, *, time: float, count: int = 1) -> None:
        """Count occurrences of a key.

        Args:
            key: the key.
            time: the time of the occurrences, in seconds.
            count: their number.
        """
        if key not in self.total and len(self.total) >= self._max_keys:
            return
        self._slots.setdefault(self._slot(time), Counter())[key] += count
        self.total[key] += count

    def expire(self, now: float) -> None:
        """Remove the counts that are older than the period."""
        first = self._slot(now - self.seconds)
        for slot in [slot for slot in self._slots if slot < first]:
            self.total -= self._slots.pop(slot)

    def _slot(self, time: float) -> int:
        return int(time * _SLOTS / self.seconds)

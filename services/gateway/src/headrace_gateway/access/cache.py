"""A bounded cache whose entries expire."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class TimedCache(Generic[K, V]):
    """A mapping with a maximum size, whose entries expire.

    A full cache drops its oldest entry.

    Args:
        size: the maximum number of entries.
        clock: returns monotonic seconds.
    """

    def __init__(self, *, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._entries: dict[K, tuple[V, float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, key: K) -> V:
        """Return the value of a key.

        Raises:
            KeyError: the key is unknown or expired.
        """
        value, end = self._entries[key]
        if end <= self._clock():
            del self._entries[key]
            raise KeyError(key)
        return value

    def __contains__(self, key: K) -> bool:
        """Return whether a key is known and not expired."""
        try:
            self[key]
        except KeyError:
            return False
        return True

    def put(self, key: K, value: V, *, seconds: float) -> None:
        """Store a value for a time."""
        self._entries.pop(key, None)
        if len(self._entries) >= self._size:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (value, self._clock() + seconds)

    def remove(self, key: K) -> None:
        """Drop the value of a key, if there is one."""
        self._entries.pop(key, None)

    def remove_if(self, condition: Callable[[V], bool]) -> None:
        """Drop the values that meet a condition."""
        for key in [key for key, (value, _) in self._entries.items() if condition(value)]:
            del self._entries[key]

    def clear(self) -> None:
        """Remove all values."""
        self._entries.clear()

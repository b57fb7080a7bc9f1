"""How long to wait before trying again."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Final

_FIRST: Final = 0.25


class Backoff:
    """Exponential backoff with equal jitter (M. Brooker, AWS Architecture Blog, 2015).

    Half of each wait is sure: the five retries of a call then span 3.9 s at least, which is what a
    gateway that was killed needs to be there again.

    Args:
        longest: the longest wait before jitter, in seconds.
    """

    def __init__(self, *, longest: float) -> None:
        self._longest = longest
        self._base = _FIRST

    def next(self, asked: timedelta | None = None) -> float:
        """The next wait in seconds, on top of what the server asked for.

        On top, since a server asks all of its clients alike, and they should not come back at once.
        """
        wait = random.uniform(self._base / 2, self._base)
        self._base = min(self._longest, self._base * 2)
        return wait + (asked.total_seconds() if asked else 0.0)

    def reset(self) -> None:
        """Begins again, after a success."""
        self._base = _FIRST

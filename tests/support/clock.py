"""A clock for objects that read the time through an argument."""

from __future__ import annotations


class Clock:
    """A monotonic clock that a test advances, in seconds.

    Attributes:
        now: the time.
    """

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now

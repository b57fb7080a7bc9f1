"""The database's clock, read from here."""

from __future__ import annotations

import math
import time
from typing import Final

from headrace_core.store.event_log import ClockReading

# How far two clocks may run apart, in seconds per second: what NTP allows an oscillator.
_DRIFT: Final = 0.0005


class DatabaseClock:
    """What the database's clock shows, by its distance from this process's monotonic clock.

    The database reads its clock somewhere between a question and its answer, so each reading gives
    bounds of the distance, and together they give narrow ones, however busy this process is. The
    clock of this machine plays no part, and one that is set anew does no harm.
    """

    def __init__(self) -> None:
        self._low = -math.inf
        self._high = math.inf
        self._read = 0.0
        self._distance = 0.0

    def set(self, reading: ClockReading) -> None:
        """Takes what a reading says of the distance."""
        shown = reading.time
        low, high = shown - reading.answered, shown - reading.asked
        slack = (reading.answered - self._read) * _DRIFT
        self._low = max(self._low - slack, low)
        self._high = min(self._high + slack, high)
        if self._low > self._high:
            # Somebody has set the database's clock.
            self._low, self._high = low, high
        self._read = reading.answered
        self._distance = (self._low + self._high) / 2

    def now(self) -> float:
        """What it shows now, in seconds since 1970. It must have been set before."""
        return time.monotonic() + self._distance

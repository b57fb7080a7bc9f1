"""Log lines of failed calls: a few of each code, and a count of the rest."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

import structlog

_log = structlog.get_logger()

# How many lines of one code are written in a period, and how long a period is, in seconds.
_LINES: Final = 10
_PERIOD_S: Final = 10.0


class FailureLog:
    """Writes `call_failed` lines, at most some for each status code in a period.

    An outage fails thousands of calls a second, all for one reason. What was left out is counted in
    a `calls_failed` line at the end of the period.

    Args:
        lines: how many lines of one code a period has.
        period: in seconds.
    """

    def __init__(self, *, lines: int = _LINES, period: float = _PERIOD_S) -> None:
        self._lines = lines
        self._period = period
        self._counts: Counter[str] = Counter()

    def write(self, level: str, *, code: str, **fields: Any) -> None:
        """Write a line, or count it.

        Args:
            level: of the log.
            code: the status code's name.
            fields: of the line.
        """
        if not self._counts[code]:
            asyncio.get_running_loop().call_later(self._period, self._end, code)
        self._counts[code] += 1
        if self._counts[code] <= self._lines:
            getattr(_log, level)("call_failed", code=code, **fields)

    def _end(self, code: str) -> None:
        left_out = self._counts.pop(code) - self._lines
        if left_out > 0:
            _log.warning("calls_failed", code=code, not_logged=left_out, period_s=self._period)

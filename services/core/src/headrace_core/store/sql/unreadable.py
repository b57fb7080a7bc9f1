"""Counts and logs stored rows that cannot be read as a whole.

An older version stored infinite times, and an operator may write anything. A reader gets such a row
without its unreadable fields, so that no row can break a page or a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

_log = structlog.get_logger()

# A row may be read many times a second. Each is logged once, as far as they are remembered.
_MOST_REMEMBERED: Final = 10_000


class UnreadableRows:
    """The unreadable rows that this process has found.

    Attributes:
        total: how often an unreadable row was read.
    """

    def __init__(self) -> None:
        self.total = 0
        self._logged: set[str] = set()

    def note(self, row: str, fields: Sequence[str]) -> None:
        """Counts a row, and logs it when it is new.

        Args:
            row: names it, as `job 0199…`.
            fields: the columns that cannot be read. Their values are not logged.
        """
        self.total += 1
        if row in self._logged:
            return
        if len(self._logged) >= _MOST_REMEMBERED:
            self._logged.clear()
        self._logged.add(row)
        _log.error(
            "row_unreadable",
            row=row,
            fields=list(fields),
            advice="run `headrace verify` to list such rows and "
            "`python -m headrace_core mend` to repair them",
        )


# Of this process: rows are read in many places, and no caller has a use for them but the metric.
UNREADABLE_ROWS: Final = UnreadableRows()

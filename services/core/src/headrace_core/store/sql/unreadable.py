"""Count and log stored rows with unreadable fields.

An older version stored infinite times, and an operator can store any value. A reader gets such a
row without its unreadable fields, so no row can break a page or a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

_log = structlog.get_logger()

# A row can be read many times a second, so a remembered row is not logged again.
_MAX_REMEMBERED: Final = 10_000


class UnreadableRows:
    """The unreadable rows that this process has found.

    Attributes:
        total: the number of times an unreadable row was read.
    """

    def __init__(self) -> None:
        self.total = 0
        self._logged: set[str] = set()

    def record(self, row: str, fields: Sequence[str]) -> None:
        """Count a row, and log it if it is new.

        Args:
            row: the name of the row, such as `job 0199…`.
            fields: the unreadable columns. Their values are not logged.
        """
        self.total += 1
        if row in self._logged:
            return
        if len(self._logged) >= _MAX_REMEMBERED:
            self._logged.clear()
        self._logged.add(row)
        _log.error(
            "row_unreadable",
            row=row,
            fields=list(fields),
            advice="run `headrace verify` to list such rows and "
            "`python -m headrace_core mend` to repair them",
        )


# One per process: rows are read in many places, and only the metric uses the count.
UNREADABLE_ROWS: Final = UnreadableRows()

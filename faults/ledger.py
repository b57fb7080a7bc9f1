"""The ledger: what handlers write down before they do anything else.

It is a table of SQLite, since it must outlive the servers whose faults it is to judge.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from faults.evidence import Run

# The variable that tells a worker's handlers where it is.
VARIABLE = "FAULTS_LEDGER"

# Several workers write to it; each entry takes some microseconds.
_PATIENCE_S = 10.0


class Ledger:
    """A table of (job, attempt), appended to by several processes.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        # What it must survive is the end of a process, not of the machine.
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS runs (job_id TEXT NOT NULL, attempt INTEGER NOT NULL)"
        )

    def append(self, job_id: str, attempt: int) -> None:
        """Writes down that a handler has begun an attempt."""
        self._connection.execute("INSERT INTO runs VALUES (?, ?)", (job_id, attempt))

    def read(self) -> list[Run]:
        """All entries, in their order."""
        return [
            Run(job_id, attempt)
            for job_id, attempt in self._connection.execute(
                "SELECT job_id, attempt FROM runs ORDER BY rowid"
            )
        ]

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

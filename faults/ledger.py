"""The ledger: a record of every attempt that a handler starts.

The ledger is a SQLite file, because it must survive the faults of the servers.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from faults.evidence import LedgerEntry

# The environment variable that contains the path of the ledger.
LEDGER_VARIABLE = "FAULTS_LEDGER"

# Longest wait for the lock, in seconds. Writing an entry takes microseconds.
_LOCK_TIMEOUT_S = 10.0


class Ledger:
    """A table of (job, attempt) to which several processes append.

    Args:
        path: the SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        # Entries must survive a crash of the process, not of the machine.
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS runs (job_id TEXT NOT NULL, attempt INTEGER NOT NULL)"
        )

    def append(self, job_id: str, attempt: int) -> None:
        """Record the start of an attempt."""
        self._connection.execute("INSERT INTO runs VALUES (?, ?)", (job_id, attempt))

    def read(self) -> list[LedgerEntry]:
        """Return all entries in the order in which they were written."""
        return [
            LedgerEntry(job_id, attempt)
            for job_id, attempt in self._connection.execute(
                "SELECT job_id, attempt FROM runs ORDER BY rowid"
            )
        ]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

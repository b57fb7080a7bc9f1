"""The health check for database writes."""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import Final

from asyncpg import PostgresError
from sqlalchemy import TextClause, text

from headrace_core.domain.errors import Unavailable
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.sql.database import Database, server_error
from headrace_core.store.sql.transition import EVENT_SOURCE, insert_events

# Seconds between two checks for free disk space.
_DISK_CHECK_S: Final = 10.0


async def check_writes(database: Database, *, submits: bool = True) -> None:
    """Check that jobs and events can be written, and that a commit reaches the disk.

    Args:
        database: the database to check.
        submits: whether the service inserts jobs; if not, it updates them.

    Raises:
        Unavailable: the database is read-only, a table stays locked, or a commit fails.
    """
    async with database.statement() as connection:
        await connection.execute(_SUBMIT if submits else _TRANSITION)


async def write_fault(database: Database, *, within: float) -> str | None:
    """Return the reason why jobs cannot be stored; None if they can.

    Args:
        database: the database to check.
        within: the time limit of the check, in seconds.
    """
    try:
        async with asyncio.timeout(within):
            await check_writes(database)
    except TimeoutError:
        return f"no response within {within:g} s"
    except (Unavailable, PostgresError) as error:
        answer = server_error(error)
        return type(error.__cause__).__name__ if answer is None else answer.message
    return None


class WriteProbe:
    """The health check of a service.

    Args:
        database: the service's database.
        submits: see `check_writes`.
        checks_disk: whether to check for free disk space every ten seconds.
    """

    def __init__(
        self, database: Database, *, submits: bool = True, checks_disk: bool = False
    ) -> None:
        self._database = database
        self._submits = submits
        self._next_disk_check = 0.0 if checks_disk else inf

    async def run(self) -> None:
        """Run `check_writes`, and check for free disk space if that is due.

        Raises:
            Unavailable: nothing can be stored.
        """
        await check_writes(self._database, submits=self._submits)
        if time.monotonic() >= self._next_disk_check:
            async with self._database.transaction() as connection:
                await connection.execute(_LIMIT_MEMORY)
                await connection.execute(_WRITE_TEMPORARY_FILE)
            self._next_disk_check = time.monotonic() + _DISK_CHECK_S


# The probes take the same locks and need the same privileges as a submit and as a transition, but
# write no rows. The message is 50 bytes of WAL. Its commit waits for the disk and for synchronous
# standbys.
_NO_EVENT = insert_events(
    table="job e",
    seq="e.seq",
    event_type=f"'{EventType.SUBMITTED}'",
    state="e.state",
    time="e.update_time",
    columns={},
)


def _probe(write: str) -> TextClause:
    return text(f"""
        WITH job AS ({write}), event AS ({_NO_EVENT})
        SELECT pg_logical_emit_message(true, 'headrace', '')
    """)


_SUBMIT = _probe("INSERT INTO jobs SELECT * FROM jobs WHERE false RETURNING *")
_TRANSITION = _probe(
    "UPDATE jobs j SET state = state, seq = seq, xid = xid, update_time = update_time "
    f"WHERE false RETURNING {EVENT_SOURCE}"
)

# An insert can use free space in the table, but a temporary file needs new space. The file
# is 300 KB and is removed at once.
_LIMIT_MEMORY = text("SET LOCAL work_mem = '64kB'")
_WRITE_TEMPORARY_FILE = text("SELECT count(*) FROM generate_series(1, 20000)")

"""Who leads: whoever holds one advisory lock of the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import asyncpg

from headrace_core.store.database import Database, until_lost

# Any number that nobody else takes: the first eight bytes of "headrace scheduler", reversed.
_LOCK = int.from_bytes(b"ecardaeh") >> 1


class Leadership:
    """The lock, held on a connection of its own: when that is lost, so is the lock."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def hold(self, probe: float) -> NoReturn:
        """Never returns while the lock is held.

        Args:
            probe: seconds between two checks of the connection, and the deadline of each.

        Raises:
            Exception: it is lost. Out of `try_lead` that comes as Unavailable.
        """
        await until_lost(self._connection, probe=probe)


@asynccontextmanager
async def try_lead(database: Database) -> AsyncIterator[Leadership | None]:
    """Tries to take the lock; yields None when another one leads.

    Raises:
        Unavailable: the database is gone, at the beginning or within the block.
    """
    async with database.session() as connection:
        led = await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK)
        yield Leadership(connection) if led else None

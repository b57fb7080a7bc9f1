"""Wake-ups through PostgreSQL: LISTEN and NOTIFY."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn

from sqlalchemy import text

from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database, until_lost


async def notify(conn: Connection, channels: Sequence[str]) -> None:
    """Notify the listeners of `channels` when the transaction commits."""
    await conn.execute(_NOTIFY, {"channels": list(channels)})


async def listen(
    database: Database,
    channels: Sequence[str],
    *,
    on_notify: Callable[[Sequence[str]], None],
    probe: float,
) -> NoReturn:
    """Listen to channels until the connection fails.

    Args:
        database: the database to connect to.
        channels: the channels to listen to.
        on_notify: called with all channels when listening begins, and then with the channel of each
            notification. It must not block.
        probe: seconds between two checks of the connection. It is also the time limit of each check
            and of the LISTEN statements.

    Raises:
        Unavailable: the connection failed.
    """
    async with database.session() as connection:
        # The statement time limit is too long to detect a dead connection.
        async with asyncio.timeout(probe):
            for channel in channels:
                await connection.add_listener(
                    channel, lambda *notification: on_notify((notification[2],))
                )
        on_notify(channels)
        await until_lost(connection, probe=probe)


_NOTIFY = text("SELECT pg_notify(channel, '') FROM unnest(CAST(:channels AS text[])) AS channel")

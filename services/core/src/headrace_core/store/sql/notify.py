"""LISTEN/NOTIFY: how wake-ups go through PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn

from sqlalchemy import text

from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database, until_lost


async def notify(conn: Connection, channels: Sequence[str]) -> None:
    """Notifies whoever listens to one of `channels`, when the transaction commits."""
    await conn.execute(_NOTIFY, {"channels": list(channels)})


async def listen(
    database: Database,
    channels: Sequence[str],
    *,
    heard: Callable[[Sequence[str]], None],
    probe: float,
) -> NoReturn:
    """Calls `heard` with all channels once it listens, and then with the one of every notification,
    until the connection fails.

    Args:
        database: where to connect.
        channels: what to listen to.
        heard: must not block.
        probe: seconds between two checks that the connection lives, and the deadline of each, as
            of the first word on it.

    Raises:
        Unavailable: the connection failed.
    """
    async with database.session() as connection:
        # A link that has just died must not be waited for as long as a statement may take.
        async with asyncio.timeout(probe):
            for channel in channels:
                await connection.add_listener(channel, lambda *said: heard((said[2],)))
        heard(channels)
        await until_lost(connection, probe=probe)


_NOTIFY = text("SELECT pg_notify(channel, '') FROM unnest(CAST(:channels AS text[])) AS channel")

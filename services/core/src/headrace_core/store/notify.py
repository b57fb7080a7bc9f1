"""LISTEN/NOTIFY: how wake-ups go through PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace_core.store.database import Database


async def notify(conn: AsyncConnection, channels: Sequence[str]) -> None:
    """Notifies whoever listens to one of `channels`, when the transaction commits."""
    await conn.execute(_NOTIFY, {"channels": list(channels)})


async def listen(
    database: Database,
    channels: Sequence[str],
    *,
    heard: Callable[[], None],
    probe: float,
) -> None:
    """Calls `heard` once it listens and then at every notification, until the connection fails.

    Args:
        database: where to connect.
        channels: what to listen to.
        heard: must not block.
        probe: seconds between two checks that the connection lives, and the deadline of each.

    Raises:
        Unavailable: the connection failed.
    """
    async with database.session() as connection:
        for channel in channels:
            await connection.add_listener(channel, lambda *_: heard())
        heard()
        while True:
            await asyncio.sleep(probe)
            await connection.execute("SELECT 1", timeout=probe)


_NOTIFY = text("SELECT pg_notify(channel, '') FROM unnest(CAST(:channels AS text[])) AS channel")

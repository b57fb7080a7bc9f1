"""Waiting for what sends no signal, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy import text

from headrace_core.store.sql.database import Database

T = TypeVar("T")


async def until(look: Callable[[], Awaitable[T] | T], *, within: float = 30.0) -> T:
    """Looks again and again until there is something to see; returns it.

    Args:
        look: returns something true once it is there.
        within: seconds.

    Raises:
        TimeoutError: it never was.
    """
    async with asyncio.timeout(within):
        while True:
            seen = look()
            if isinstance(seen, Awaitable):
                seen = await seen
            if seen:
                return seen
            await asyncio.sleep(0.005)


async def until_blocked(database: Database, *, sessions: int = 1) -> None:
    """Waits until that many sessions of a test's database wait for somebody's lock."""

    async def blocked() -> bool:
        async with database.transaction() as connection:
            return await connection.scalar(_BLOCKED) >= sessions

    await until(blocked)


_BLOCKED = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
)

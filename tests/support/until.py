"""Polling with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy import text

from headrace_core.store.sql.database import Database

T = TypeVar("T")

# Shortest and longest pause between two calls, in seconds.
_MIN_PAUSE_S = 0.005
_MAX_PAUSE_S = 0.1


async def until(condition: Callable[[], Awaitable[T] | T], *, within: float = 30.0) -> T:
    """Call `condition` until its result is true; return that result.

    Each pause is a twentieth of the wait so far, so long waits cost little CPU time.

    Args:
        condition: returns a true value or an awaitable of one.
        within: the deadline in seconds.

    Raises:
        TimeoutError: the result did not become true in time.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    async with asyncio.timeout(within):
        while True:
            result = condition()
            if isinstance(result, Awaitable):
                result = await result
            if result:
                return result
            await asyncio.sleep(min(max(_MIN_PAUSE_S, (clock() - began) / 20), _MAX_PAUSE_S))


async def until_blocked(database: Database, *, sessions: int = 1) -> None:
    """Wait until at least `sessions` database sessions wait for a lock."""

    async def blocked() -> bool:
        async with database.transaction() as connection:
            return await connection.scalar(_BLOCKED) >= sessions

    await until(blocked)


_BLOCKED = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
)

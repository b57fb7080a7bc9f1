"""Detects poolers that share a session among clients, such as PgBouncer in transaction mode.

LISTEN, prepared statements and session settings need a dedicated session. Statements of this module
use the simple protocol, because prepared statements of a shared session can belong to another
client. Only the status of such a statement is known, such as `SELECT 1`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final
from uuid import uuid4

import asyncpg

from headrace_core.runtime.settings import StartRefused

# The number of tries, because another client can take the session in between.
_TRIES: Final = 5
# Time limit of the second connection, in seconds. A pooler in session mode can have no free server.
_TIMEOUT_S: Final = 3.0

_YES: Final = "SELECT 1"

# The errors of a session whose prepared statements belong to another client.
SHARED_SESSION_ERRORS: Final = (
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidSQLStatementNameError,
)


class SharedSession(StartRefused):
    """The database URL names a pooler that shares sessions."""

    def __init__(self) -> None:
        super().__init__(
            "HEADRACE_DATABASE_URL names a pooler that shares sessions, such as PgBouncer with "
            "pool_mode=transaction. LISTEN and prepared statements need a session of their own: "
            "set pool_mode=session, or connect to PostgreSQL directly"
        )


def is_direct(driver: asyncpg.Connection) -> str:
    """Return a statement that returns a row if no pooler is between this connection and its server.

    A pooler announces process ids of its own.
    """
    return f"SELECT 1 WHERE pg_backend_pid() = {driver.get_server_pid()}"


async def check_pooler(
    driver: asyncpg.Connection, connect: Callable[[], Awaitable[asyncpg.Connection]]
) -> None:
    """Check that a connection keeps its session, if a pooler is in between.

    Args:
        driver: the connection.
        connect: opens another connection to the same address.

    Raises:
        SharedSession: another client can use the session.
        asyncpg.PostgresError, OSError: the database cannot be reached.
    """
    if await driver.execute(is_direct(driver)) == _YES:
        return
    mark = uuid4().hex
    sees_mark = f"SELECT 1 WHERE current_setting('headrace.session', true) = '{mark}'"
    # Without a second connection, the mode is unknown.
    with suppress(TimeoutError):
        async with asyncio.timeout(_TIMEOUT_S):
            other = await connect()
            try:
                for _ in range(_TRIES):
                    await driver.execute(f"SET headrace.session = '{mark}'")
                    # In session mode, the mark is visible in its own session alone.
                    if await other.execute(sees_mark) == _YES:
                        raise SharedSession
                    if await driver.execute(sees_mark) != _YES:
                        raise SharedSession
            finally:
                other.terminate()
                await driver.execute("RESET headrace.session")

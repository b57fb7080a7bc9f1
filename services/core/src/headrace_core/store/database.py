"""The connection pool, and the one place where a fault of the database becomes a domain error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NoReturn

import asyncpg
import sqlalchemy.exc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from headrace_core.domain.errors import Unavailable
from headrace_core.settings import Settings

# SQLSTATE classes and codes after which the same call may succeed: connection exceptions,
# insufficient resources, operator intervention, system errors, deadlock and serialization failure,
# lock timeout, a transaction that took too long, and a server that is read-only because it is a
# standby by now.
_PASSING_CLASSES = ("08", "53", "57", "58")
_PASSING_CODES = ("40001", "40P01", "55P03", "25P03", "25P04", "25006")

# How long the connections have to close, in seconds.
_CLOSE_S = 5.0


class Database:
    """A pool of connections.

    Args:
        settings: the URL, the size of the pool and the deadline of a statement.
        application: how the connections call themselves in pg_stat_activity.
    """

    def __init__(self, settings: Settings, *, application: str) -> None:
        self._engine = create_async_engine(
            settings.sqlalchemy_url,
            pool_size=settings.database_pool_size,
            max_overflow=0,
            # An error's text must not show payloads.
            hide_parameters=True,
            pool_timeout=settings.database_timeout,
            connect_args={
                "timeout": settings.database_timeout,
                "command_timeout": settings.database_timeout,
                "server_settings": {
                    "application_name": f"headrace-{application}",
                    # The guards compare what another transaction has just committed.
                    "default_transaction_isolation": "read committed",
                    # The statements are short: compiling them would cost more than running them.
                    "jit": "off",
                    # Each statement is planned once and kept, since planning costs more than
                    # running. A plan from when a table was empty must not read all of it when
                    # it is full, so plans go by indexes and keys, whatever the table's size.
                    "plan_cache_mode": "force_generic_plan",
                    "enable_seqscan": "off",
                    "enable_hashjoin": "off",
                    "enable_mergejoin": "off",
                },
            },
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A connection with an open transaction, committed at the end of the block.

        Raises:
            Unavailable: the database cannot be reached, or gave up on the transaction. Whether a
                COMMIT that was cut off took place is then unknown.
        """
        with _faults():
            async with self._engine.begin() as connection:
                yield connection

    async def ping(self) -> None:
        """Asks the database for a sign of life.

        Raises:
            Unavailable: there is none.
        """
        async with self.transaction() as connection:
            await connection.execute(text("SELECT 1"))

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """A raw connection of its own, outside the pool, for LISTEN and advisory locks.

        Raises:
            Unavailable: as for a transaction.
        """
        with _faults():
            async with self._engine.connect() as connection:
                raw = await connection.get_raw_connection()
                driver = raw.driver_connection
                assert isinstance(driver, asyncpg.Connection)
                # It leaves the pool for good, so that no state of it reaches another user.
                raw.detach()
                try:
                    yield driver
                finally:
                    driver.terminate()

    async def close(self) -> None:
        """Closes all connections; those that do not close in time are left to the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._engine.dispose()


async def until_lost(connection: asyncpg.Connection, *, probe: float) -> NoReturn:
    """Waits until a raw connection is lost, and raises what that shows itself as.

    Args:
        connection: from `Database.session`.
        probe: seconds between two checks, and the deadline of each. A session that the server ends
            is noticed at once.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError: it is lost.
    """
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(probe):
                await ended.wait()
        await connection.execute("SELECT 1", timeout=probe)


class _faults:  # noqa: N801 - reads as a function: with _faults():
    """Turns faults of the database that may pass into Unavailable."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and _may_pass(error):
            raise Unavailable("postgresql") from error


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        if error.connection_invalidated:
            return True
        cause = error.orig.__cause__ if error.orig is not None else None
        return cause is not None and _may_pass(cause)
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        return code[:2] in _PASSING_CLASSES or code in _PASSING_CODES
    return isinstance(
        error, sqlalchemy.exc.TimeoutError | OSError | TimeoutError | asyncpg.InterfaceError
    )

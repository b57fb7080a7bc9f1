"""The connection pool, and the one place where a fault of the database becomes a domain error."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any, NoReturn
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
from sqlalchemy import text

from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.urls import database_options
from headrace_core.store.sql.connection import Connection, Driver, Row
from headrace_core.store.sql.installation import read_installation

# SQLSTATE classes and codes after which the same call may succeed: connection exceptions,
# insufficient resources, operator intervention, system errors, deadlock and serialization failure,
# lock timeout, a transaction that took too long, and a server that is read-only because it is a
# standby by now.
_PASSING_CLASSES = ("08", "53", "57", "58")
_PASSING_CODES = ("40001", "40P01", "55P03", "25P03", "25P04", "25006")

# After these a connection is closed, though it still answers: the server became read-only or a
# standby, or a pooler has no server for it.
_USELESS_CODES = ("25006", "57P01", "57P02", "57P03", "57P04", "57P05")
_READ_ONLY = "25006"

# How long a connection that is given back has to answer a cancellation, and how long all of them
# have to close, in seconds.
_RELEASE_S = 2.0
_CLOSE_S = 5.0

# For how long a transaction may stay open while nothing is asked of it, in milliseconds. A process
# that stands still within one holds locks, and all streams of many jobs wait for it.
_IDLE_TRANSACTION_MS = 10_000


class Database:
    """A pool of connections.

    Args:
        settings: the URL, the size of the pool and the deadline of a statement.
        application: how the connections call themselves in pg_stat_activity.
        bounded: whether the deadline holds, and a transaction in which nothing happens is ended;
            maintenance may take its time.
        writes: whether a standby is refused; of several hosts the primary is used in any case.
        timeout: the deadline of a statement in seconds, if it is shorter than that of the settings.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        application: str,
        bounded: bool = True,
        writes: bool = True,
        timeout: float = inf,
    ) -> None:
        self._timeout = min(timeout, settings.database_timeout)
        self._size = settings.database_pool_size
        server = server_arguments(settings, writes=writes)
        self._connect: dict[str, Any] = {
            **server,
            "timeout": min(timeout, server["timeout"]),
            "command_timeout": self._timeout if bounded else None,
            "record_class": Row,
            "connection_class": Driver,
            # Every statement of a service, prepared once for each connection.
            "statement_cache_size": 500,
            "max_cached_statement_lifetime": 0,
            "server_settings": {"application_name": f"headrace-{application}"},
        }
        # The doctor counts processes by these.
        self._listen = {"application_name": f"headrace-{application}-listen"}
        session = {
            # Unqualified names cost nothing per statement.
            "search_path": settings.database_schema,
            # The guards compare what another transaction has just committed.
            "default_transaction_isolation": "'read committed'",
            # The statements are short: compiling them would cost more than running them.
            "jit": "off",
            # Each statement is planned once and kept, since planning costs more than running. A
            # plan from when a table was empty must not read all of it when it is full, so plans go
            # by indexes and keys, whatever the table's size.
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "idle_in_transaction_session_timeout": str(_IDLE_TRANSACTION_MS if bounded else 0),
        }
        # One round trip for each connection. PgBouncer and other poolers refuse most settings in
        # the message that opens a connection.
        self._session = ";".join(f"SET {name} = {value}" for name, value in session.items())
        self._pool: asyncpg.Pool[Row] | None = None
        # Whether it ever was.
        self._connected = False
        self._installation_id: UUID | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection with an open transaction, committed at the end of the block.

        Raises:
            Unavailable: the database cannot be reached, or gave up on the transaction. Whether a
                COMMIT that was cut off took place is then unknown.
        """
        with _faults():
            async with self._driver() as driver:
                await driver.execute("BEGIN")
                connection = Connection(driver, begun=True)
                # What is not committed is rolled back when the connection is given back.
                yield connection
                await connection.commit()

    @asynccontextmanager
    async def snapshot(self, *, statement_timeout: float) -> AsyncIterator[Connection]:
        """A transaction that only reads, all of it as of one moment: for statements over much.

        Args:
            statement_timeout: seconds that one statement may take.

        Raises:
            Unavailable: as for a transaction; a statement that took too long is one.
        """
        with _faults():
            async with self._driver() as driver:
                await driver.execute(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
                    f"SET LOCAL statement_timeout = {round(statement_timeout * 1000)};"
                    # Such statements are worth planning, and their pages are worth joining.
                    "SET LOCAL plan_cache_mode = force_custom_plan;"
                    "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on"
                )
                connection = Connection(driver, begun=True)
                yield connection
                await connection.commit()

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """A connection on which each statement is a transaction of its own: one round trip.

        Raises:
            Unavailable: as for a transaction.
        """
        with _faults():
            async with self._driver() as driver:
                yield Connection(driver, begun=False)

    async def ping(self) -> None:
        """Asks the database for a sign of life.

        Raises:
            Unavailable: there is none.
        """
        async with self.statement() as connection:
            await connection.execute(_PING)

    async def installation_id(self) -> UUID:
        """Return the id that names the database; it is read once.

        Raises:
            Unavailable: as for a transaction.
        """
        if self._installation_id is None:
            async with self.statement() as connection:
                self._installation_id = (await read_installation(connection)).id
        return self._installation_id

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """A raw connection of its own, outside the pool, for LISTEN.

        Raises:
            Unavailable: as for a transaction.
        """
        with _faults():
            driver = await asyncpg.connect(**self._connect | {"server_settings": self._listen})
            try:
                await self._begin_session(driver)
                yield driver
            finally:
                driver.terminate()

    async def close(self) -> None:
        """Closes all connections; those that do not close in time are left to the end."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    async def _begin_session(self, driver: Any) -> None:
        await driver.execute(self._session, timeout=self._timeout)

    @asynccontextmanager
    async def _driver(self) -> AsyncIterator[Driver]:
        pool = self._pool
        if pool is None:
            # It connects nobody yet.
            pool = self._pool = asyncpg.create_pool(
                **self._connect,
                init=self._begin_session,
                min_size=0,
                max_size=self._size,
                max_queries=2**31,
                max_inactive_connection_lifetime=0,
            )
        try:
            # Makes it ready, at once, when it is not.
            await pool
            lent = await pool.acquire(timeout=self._timeout)
        except asyncpg.PostgresError as error:
            if not self._connected:
                # What never was let in is set wrong, and should hear of it.
                raise
            # A password that is being changed, or a server that is taking over: it may pass.
            raise Unavailable("postgresql") from error
        self._connected = True
        # The pool takes it out of `lent` when it is lost; then the driver itself still says so.
        driver: Driver = lent._con  # type: ignore[attr-defined] # noqa: SLF001
        try:
            yield driver
        except BaseException as error:
            if isinstance(error, asyncpg.InternalClientError):
                # So it shows itself when the server has said goodbye and has not hung up yet.
                driver.terminate()
            elif isinstance(error, asyncpg.PostgresError) and error.sqlstate in _USELESS_CODES:
                driver.terminate()
                if error.sqlstate == _READ_ONLY:
                    # A session that began read-only stays so: each is replaced at its next use.
                    await pool.expire_connections()
            # Whatever comes of it, a cancellation most of all, must not get lost to another error.
            with suppress(Exception):
                await pool.release(lent, timeout=_RELEASE_S)
            raise
        await pool.release(lent, timeout=_RELEASE_S)


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


def server_arguments(settings: Settings, *, writes: bool = True) -> dict[str, Any]:
    """Return asyncpg's arguments for the server of the settings.

    Args:
        settings: has the URL, whose options docs/production.md lists.
        writes: whether a standby is refused; of several hosts the primary is used in any case.
    """
    options = database_options(settings.database_url.get_secret_value())
    arguments: dict[str, Any] = {
        "dsn": settings.postgresql_url,
        # As in libpq, 0 is no limit of the URL's own.
        "timeout": int(options.get("connect_timeout", "0")) or settings.database_timeout,
    }
    if options.get("sslrootcert") == "system":
        # asyncpg takes it for the name of a file.
        arguments["ssl"] = ssl.create_default_context()
    if options.get("target_session_attrs", "any") == "any":
        several = "," in urlsplit(settings.postgresql_url).netloc or "," in options.get("host", "")
        # A standby may be behind, and stay so: it is not read from either.
        arguments["target_session_attrs"] = "primary" if writes or several else "any"
    return arguments


def server_error(error: BaseException | None) -> asyncpg.PostgresError | None:
    """Return the server's answer in a chain of causes; None when the server did not answer.

    Its message has no part of the URL, unlike a driver's.
    """
    while error is not None and not isinstance(error, asyncpg.PostgresError):
        error = error.__cause__
    return error


_PING = text("SELECT 1")


class _faults:  # noqa: N801 - reads as a function: with _faults():
    """Turns faults of the database that may pass into Unavailable."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and _may_pass(error):
            raise Unavailable("postgresql") from error


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        return code[:2] in _PASSING_CLASSES or code in _PASSING_CODES
    return isinstance(
        error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError
    )

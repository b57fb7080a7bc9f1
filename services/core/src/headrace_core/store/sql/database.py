"""The connection pool. It converts transient database faults to `Unavailable`."""

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
from headrace_core.store.sql.installation import read_installation_id
from headrace_core.store.sql.pooler import SHARED_SESSION_ERRORS, SharedSession, check_pooler

# SQLSTATE classes and codes after which the same call may succeed: connection exceptions,
# insufficient resources, operator intervention, system errors, serialization failure, deadlock,
# lock timeout, transaction timeouts, and a read-only server, which may have become a standby.
_TRANSIENT_CLASSES = ("08", "53", "57", "58")
_TRANSIENT_CODES = ("40001", "40P01", "55P03", "25P03", "25P04", "25006")

# SQLSTATE codes after which a connection is closed although it still responds: the server became
# read-only or a standby, or a pooler has no server for the connection.
_USELESS_CODES = ("25006", "57P01", "57P02", "57P03", "57P04", "57P05")
_READ_ONLY = "25006"

# Maximum time for a released connection to respond to a cancellation, in seconds.
_RELEASE_S = 2.0
# Maximum time for connections to close, in seconds. Open connections are then terminated.
_CLOSE_S = 5.0

# Maximum idle time of a transaction, in milliseconds. A suspended process keeps its
# locks and delays all streams of many jobs.
_IDLE_TRANSACTION_MS = 10_000


class Database:
    """A pool of connections.

    Args:
        settings: the URL, the pool size and the statement time limit.
        application: the name of the connections in pg_stat_activity.
        bounded: whether statements have a time limit and idle transactions are ended. Maintenance
            is not bounded.
        writes: whether to reject a standby. If the URL has several hosts, the primary is used in
            either case.
        timeout: the time limit of a statement, in seconds. The limit in the settings applies
            if it is shorter.
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
            # Each connection prepares each statement of a service once.
            "statement_cache_size": 500,
            "max_cached_statement_lifetime": 0,
            "server_settings": {"application_name": f"headrace-{application}"},
        }
        # `headrace doctor` counts service processes by these connections.
        self._listen = {"application_name": f"headrace-{application}-listen"}
        session = {
            # Statements use unqualified names.
            "search_path": settings.database_schema,
            # The guards must see states that another transaction has just committed.
            "default_transaction_isolation": "'read committed'",
            # The statements are short: compiling one costs more than running it.
            "jit": "off",
            # Planning costs more than running, so each statement is planned once. A plan can be
            # made while its table is empty and used when it is large, so plans use indexes.
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "idle_in_transaction_session_timeout": str(_IDLE_TRANSACTION_MS if bounded else 0),
        }
        # One round trip for each connection. PgBouncer and other poolers reject most settings in
        # the startup message.
        self._session = ";".join(f"SET {name} = {value}" for name, value in session.items())
        self._pool: asyncpg.Pool[Row] | None = None
        # Whether a connection was ever opened.
        self._connected = False
        self._installation_id: UUID | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction, and commit it at the end of the block.

        Raises:
            Unavailable: the database cannot be reached, or ended the transaction. An interrupted
                COMMIT may have taken effect.
        """
        with _converted_faults():
            async with self._driver() as driver:
                await driver.execute("BEGIN")
                connection = Connection(driver, in_transaction=True)
                # An uncommitted transaction is rolled back when the connection is released.
                yield connection
                await connection.commit()

    @asynccontextmanager
    async def snapshot(self, *, statement_timeout: float) -> AsyncIterator[Connection]:
        """Open a read-only transaction with one snapshot, for statements over many rows.

        Args:
            statement_timeout: the time limit of a statement, in seconds.

        Raises:
            Unavailable: as for a transaction, or a statement reached its time limit.
        """
        with _converted_faults():
            async with self._driver() as driver:
                await driver.execute(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
                    f"SET LOCAL statement_timeout = {round(statement_timeout * 1000)};"
                    # Over many rows, custom plans, scans of tables and hash joins are cheaper.
                    "SET LOCAL plan_cache_mode = force_custom_plan;"
                    "SET LOCAL enable_seqscan = on;"
                    "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on"
                )
                connection = Connection(driver, in_transaction=True)
                yield connection
                await connection.commit()

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """Return a connection that commits each statement, in one round trip.

        Raises:
            Unavailable: as for a transaction.
        """
        with _converted_faults():
            async with self._driver() as driver:
                yield Connection(driver, in_transaction=False)

    async def ping(self) -> None:
        """Check that the database responds.

        Raises:
            Unavailable: the database does not respond.
        """
        async with self.statement() as connection:
            await connection.execute(_PING)

    async def installation_id(self) -> UUID:
        """Return the installation id, which is read once.

        Raises:
            Unavailable: as for a transaction.
        """
        if self._installation_id is None:
            async with self.statement() as connection:
                self._installation_id = await read_installation_id(connection)
        return self._installation_id

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """Open a raw connection outside the pool, for LISTEN.

        Raises:
            Unavailable: as for a transaction.
        """
        with _converted_faults():
            driver = await asyncpg.connect(**self._connect | {"server_settings": self._listen})
            try:
                await self._set_up_session(driver)
                yield driver
            finally:
                driver.terminate()

    async def close(self) -> None:
        """Close all connections. Terminate those that are still open after five seconds."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    async def _set_up_session(self, driver: Any) -> None:
        await driver.execute(self._session, timeout=self._timeout)

    async def _check_pooler(self, pooled: Any) -> None:
        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(**self._connect)

        try:
            await check_pooler(pooled, connect)
        except BaseException:
            pooled.terminate()
            raise

    @asynccontextmanager
    async def _driver(self) -> AsyncIterator[Driver]:
        pool = self._pool
        if pool is None:
            # No connection is opened yet.
            pool = self._pool = asyncpg.create_pool(
                **self._connect,
                init=self._set_up_session,
                min_size=0,
                max_size=self._size,
                max_queries=2**31,
                max_inactive_connection_lifetime=0,
            )
        try:
            # Initializes the pool at the first use.
            await pool
            pooled = await pool.acquire(timeout=self._timeout)
            if not self._connected:
                await self._check_pooler(pooled)
        except asyncpg.PostgresError as error:
            if not self._connected:
                if isinstance(error, SHARED_SESSION_ERRORS):
                    raise SharedSession from error
                # If the first connection is rejected, the settings are wrong: report the reason.
                raise
            # A password change or a failover may be in progress.
            raise Unavailable("postgresql") from error
        self._connected = True
        # The pool clears `pooled._con` if the connection is lost. The driver still reports that.
        driver: Driver = pooled._con  # type: ignore[attr-defined] # noqa: SLF001
        try:
            yield driver
        except BaseException as error:
            if isinstance(error, asyncpg.InternalClientError):
                # asyncpg raises this if the server has ended the session but not the socket.
                driver.terminate()
            elif isinstance(error, asyncpg.PostgresError) and error.sqlstate in _USELESS_CODES:
                driver.terminate()
                if error.sqlstate == _READ_ONLY:
                    # Sessions that started read-only stay read-only, so replace all connections.
                    await pool.expire_connections()
            # An error during release must not hide the original error, especially a cancellation.
            with suppress(Exception):
                await pool.release(pooled, timeout=_RELEASE_S)
            raise
        await pool.release(pooled, timeout=_RELEASE_S)


async def until_lost(connection: asyncpg.Connection, *, probe: float) -> NoReturn:
    """Wait until a raw connection is lost, and raise its error.

    Args:
        connection: from `Database.session`.
        probe: seconds between two checks, and the time limit of each. If the server ends the
            session, the next check runs at once.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError: the connection is
            lost.
    """
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(probe):
                await ended.wait()
        await connection.execute("SELECT 1", timeout=probe)


def server_arguments(settings: Settings, *, writes: bool = True) -> dict[str, Any]:
    """Return the asyncpg connection arguments for the configured server.

    Args:
        settings: the URL. docs/production.md lists its options.
        writes: whether to reject a standby. If the URL has several hosts, the primary is used in
            either case.
    """
    options = database_options(settings.database_url.get_secret_value())
    arguments: dict[str, Any] = {
        "dsn": settings.postgresql_url,
        # 0 means that the URL sets no limit, as in libpq.
        "timeout": int(options.get("connect_timeout", "0")) or settings.database_timeout,
    }
    if options.get("sslrootcert") == "system":
        # asyncpg would treat the value as a file name.
        arguments["ssl"] = ssl.create_default_context()
    if options.get("target_session_attrs", "any") == "any":
        several = "," in urlsplit(settings.postgresql_url).netloc or "," in options.get("host", "")
        # The lag of a standby has no limit, so reads use the primary as well.
        arguments["target_session_attrs"] = "primary" if writes or several else "any"
    return arguments


def server_error(error: BaseException | None) -> asyncpg.PostgresError | None:
    """Return the server error from a chain of causes; None if the server did not respond.

    Its message contains no part of the URL, unlike a driver's message.
    """
    while error is not None and not isinstance(error, asyncpg.PostgresError):
        error = error.__cause__
    return error


_PING = text("SELECT 1")


class _converted_faults:  # noqa: N801 - reads as a function: with _converted_faults():
    """Convert transient database faults to Unavailable."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and _is_transient(error):
            raise Unavailable("postgresql") from error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        return code[:2] in _TRANSIENT_CLASSES or code in _TRANSIENT_CODES
    return isinstance(
        error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError
    )

"""Fresh databases on one PostgreSQL server."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from bench.stack import Stack

_PREFIX: Final = "headrace_bench"
_TEMPLATE: Final = f"{_PREFIX}_template"
_COMMAND_TIMEOUT_S: Final = 900.0


class Databases:
    """A factory of databases, one per measurement.

    Args:
        stack: the stack with the PostgreSQL server.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._url = stack.settings.postgresql_url
        self._numbers = itertools.count(1)
        self._template = ""

    @asynccontextmanager
    async def fresh(self, *, migrated: bool) -> AsyncIterator[str]:
        """Create a database for the duration of the block and yield its URL.

        Args:
            migrated: True for a database with the Headrace schema, False for an empty one.
        """
        template = await self._migrated_template() if migrated else "template1"
        name = f"{_PREFIX}_{next(self._numbers)}"
        async with self.connection() as connection:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield with_database(self._url, name)
        finally:
            async with self.connection() as connection:
                await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def write_dirty_pages(self) -> None:
        """Write all dirty pages to disk, so that no checkpoint runs during the measurement."""
        async with self.connection() as connection:
            await connection.execute("CHECKPOINT")

    async def wal_position(self) -> int:
        """Return the number of bytes in the server's write-ahead log so far."""
        async with self.connection() as connection:
            return int(
                await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")
            )

    @asynccontextmanager
    async def connection(self, url: str = "") -> AsyncIterator[asyncpg.Connection]:
        """Connect to the database `url`, by default the database of the stack."""
        connection = await asyncpg.connect(
            url or self._url,
            command_timeout=_COMMAND_TIMEOUT_S,
            server_settings={"search_path": f"{self._stack.settings.database_schema}, public"},
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def _migrated_template(self) -> str:
        """Return the name of a database with the Headrace schema and without rows."""
        if not self._template:
            async with self.connection() as connection:
                await connection.execute(f"DROP DATABASE IF EXISTS {_TEMPLATE} WITH (FORCE)")
                await connection.execute(f"CREATE DATABASE {_TEMPLATE}")
            await self._stack.migrate(
                {"HEADRACE_DATABASE_URL": with_database(self._url, _TEMPLATE)}
            )
            self._template = _TEMPLATE
        return self._template


def with_database(url: str, database: str) -> str:
    """Return the URL of a different database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))

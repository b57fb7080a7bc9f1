"""Alembic's entry point: it runs the migrations over asyncpg, under a lock."""

from __future__ import annotations

import asyncio

import asyncpg
from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from headrace_core.runtime.settings import Settings
from headrace_core.store.migrate import LOCK
from headrace_core.store.schema import VERSION_TABLE, prepare_schema
from headrace_core.store.sql.database import server_arguments
from headrace_core.store.sql.pooler import check_pooler
from headrace_core.store.sql.tables import metadata

_settings: Settings = context.config.attributes["settings"]


def _run(connection: Connection) -> None:
    # If several services start at once, one of them migrates and the others wait.
    connection.execute(LOCK)
    prepare_schema(connection, _settings.database_schema)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=_settings.database_schema,
    )
    with context.begin_transaction():
        context.run_migrations()


async def _connect() -> asyncpg.Connection:
    return await asyncpg.connect(**server_arguments(_settings))


async def _check_pooler() -> None:
    connection = await _connect()
    try:
        await check_pooler(connection, _connect)
    finally:
        connection.terminate()


async def _main() -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=_connect, poolclass=NullPool
    )
    try:
        await _check_pooler()
        async with engine.connect() as connection:
            await connection.run_sync(_run)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(_main())

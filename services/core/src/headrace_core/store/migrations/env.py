"""Alembic's entry: runs the migrations over asyncpg, under a lock."""

from __future__ import annotations

import asyncio

import asyncpg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from headrace_core.store.migrate import LOCK
from headrace_core.store.tables import metadata

# The functions for handlers lie in a schema `headrace`. For a role of that name it comes first in
# the usual search path, and it is no place for tables.
_SEARCH_PATH = text("""
    SELECT set_config('search_path', string_agg(quote_ident(name), ', ' ORDER BY place), false)
    FROM unnest(current_schemas(false)) WITH ORDINALITY AS t (name, place)
    WHERE name <> 'headrace' OR to_regclass('headrace.alembic_version') IS NOT NULL
    HAVING count(*) > 0
""")


def _run(connection: Connection) -> None:
    connection.execute(_SEARCH_PATH)
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        # Several services may start at once; one of them migrates, the others find it done.
        connection.execute(LOCK)
        context.run_migrations()


async def _connect() -> asyncpg.Connection:
    return await asyncpg.connect(context.config.attributes["url"])


async def _main() -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=_connect, poolclass=NullPool
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(_main())

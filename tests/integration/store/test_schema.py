"""The migrations lead to exactly the schema that tables.py declares."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from headrace_core.settings import Settings
from headrace_core.store.database import Database
from headrace_core.store.installation import read_installation
from headrace_core.store.migrate import alembic_config, migrate, migrate_async
from headrace_core.store.tables import metadata
from support.databases import Databases
from support.environment import environment_of
from support.server import run_async
from support.until import until

T = TypeVar("T")

# All that PostgreSQL keeps of a schema, as text, without the numbers that it gives.
CATALOG = {
    "tables": """
        SELECT relname, relkind, relpersistence, relrowsecurity, reloptions
        FROM pg_class WHERE {ours}
    """,
    "columns": """
        SELECT relname, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,
            attgenerated, attstorage, attcompression, attstattarget, attcollation::regcollation,
            pg_get_expr(adbin, adrelid)
        FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attnum > 0 AND {ours} AND relkind = 'r'
    """,
    "constraints": """
        SELECT relname, conname, contype, condeferrable, condeferred, convalidated, connoinherit,
            pg_get_constraintdef(pg_constraint.oid)
        FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid WHERE {ours}
    """,
    "indexes": """
        SELECT relname, pg_get_indexdef(indexrelid), indisunique, indisprimary, indisvalid,
            pg_get_expr(indpred, indrelid),
            (SELECT array_agg(opcname ORDER BY place)
                FROM unnest(indclass::oid[]) WITH ORDINALITY AS c (opclass, place)
                JOIN pg_opclass o ON o.oid = opclass)
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE {ours}
    """,
    "sequences": """
        SELECT relname, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle
        FROM pg_sequence JOIN pg_class ON pg_class.oid = seqrelid WHERE {ours}
    """,
    "triggers": """
        SELECT relname, pg_get_triggerdef(pg_trigger.oid)
        FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid WHERE {ours} AND NOT tgisinternal
    """,
    "functions": "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "types": """
        SELECT typname FROM pg_type
        WHERE typnamespace = 'public'::regnamespace AND typtype NOT IN ('c', 'b')
    """,
}
OURS = "relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic%'"

Catalog = dict[str, list[tuple[Any, ...]]]


def at(url: str) -> Settings:
    return Settings(database_url=SecretStr(url))


def read_catalog(connection: Connection) -> Catalog:
    return {
        name: sorted(
            (tuple(row) for row in connection.execute(text(query.format(ours=OURS)))), key=repr
        )
        for name, query in CATALOG.items()
    }


def read_functions(connection: Connection) -> list[str]:
    """What a handler calls, and in which schema the tables are that it works on."""
    named = "SELECT proname FROM pg_proc WHERE pronamespace = to_regnamespace('headrace')::oid"
    return sorted(row.proname for row in connection.execute(text(named)))


def on(url: str, function: Callable[[Connection], T]) -> T:
    """Runs a function on a connection to a database, and commits."""

    async def run() -> T:
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: asyncpg.connect(at(url).postgresql_url),
            poolclass=NullPool,
        )
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(function)
        finally:
            await engine.dispose()

    return run_async(run)


def test_the_migrated_schema_is_the_declared_one(databases: Databases) -> None:
    with databases.fresh() as migrated, databases.fresh(migrated=False) as declared:
        on(declared, metadata.create_all)
        found, expected = on(migrated, read_catalog), on(declared, read_catalog)
    assert len(expected["tables"]) > 5
    for name in CATALOG:
        assert found[name] == expected[name], name


@pytest.mark.filterwarnings("ignore:Did not recognize type .xid8")
def test_alembic_finds_nothing_to_migrate(databases: Databases) -> None:
    def compare(connection: Connection) -> object:
        # Defaults are compared above: alembic runs them to see whether they are the same, and a
        # random one never is.
        options = {"compare_type": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    with databases.fresh() as url:
        assert on(url, compare) == []


def test_migrations_can_be_undone_and_done_again(databases: Databases) -> None:
    with databases.fresh() as url:
        before = on(url, read_catalog)
        command.downgrade(alembic_config(at(url)), "base")
        assert not any(on(url, read_catalog).values())
        assert on(url, read_functions) == []
        migrate(at(url))
        assert on(url, read_catalog) == before


def test_no_table_gets_into_the_schema_of_the_functions(databases: Databases) -> None:
    with databases.fresh(migrated=False) as url:
        # As for a role `headrace`, to which the schema of its name comes first.
        settings = at(f"{url}?search_path=headrace,public")
        on(url, lambda c: c.execute(text("CREATE SCHEMA headrace")))
        migrate(settings)
        migrate(settings)
        with databases.fresh() as usual:
            assert on(url, read_catalog) == on(usual, read_catalog)
        inside = "SELECT count(*) FROM pg_class WHERE relnamespace = 'headrace'::regnamespace"
        assert on(url, lambda c: c.execute(text(inside)).scalar()) == 0
        assert on(url, read_functions) == ["check_fence", "complete"]


@pytest.fixture
def bare_url(databases: Databases) -> Iterator[str]:
    """A database without the schema."""
    with databases.fresh(migrated=False) as url:
        yield url


async def test_several_may_migrate_at_once_and_again(bare_url: str) -> None:
    # The lock of the migrations is held until two of them wait for it.
    lock = int.from_bytes(b"headrace") >> 1
    holder = await asyncpg.connect(bare_url)
    await holder.execute("SELECT pg_advisory_lock($1)", lock)
    one = asyncio.create_task(migrate_async(at(bare_url)))
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace_core", "migrate"),
        env=environment_of(at(bare_url)),
        stderr=asyncio.subprocess.PIPE,
    )

    async def both_wait() -> bool:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return bool(await holder.fetchval(waiting) == 2)

    await until(both_wait, within=60)
    await holder.execute("SELECT pg_advisory_unlock($1)", lock)
    async with asyncio.timeout(60):
        await one
        _, said = await other.communicate()
    assert other.returncode == 0, said
    assert b"database_migrated" in said
    # Once more, when there is nothing left to do.
    await migrate_async(at(bare_url))
    assert await holder.fetchval("SELECT count(*) FROM installation") == 1
    await holder.close()


async def test_a_database_has_one_name_and_one_secret(database: Database) -> None:
    async with database.transaction() as connection:
        one = await read_installation(connection)
        again = await read_installation(connection)
    assert one == again
    assert len(one.secret) == 32
    assert len(set(one.secret)) > 10
    assert one.secret.hex() not in repr(one)
    assert str(one.secret) not in repr(one)
    with pytest.raises(Exception, match="installation_singleton"):
        async with database.transaction() as connection:
            await connection.execute(text("INSERT INTO installation DEFAULT VALUES"))


def test_no_two_databases_have_the_same_name_or_secret(databases: Databases) -> None:
    names = []
    for _ in range(2):
        with databases.fresh(migrated=False) as url:
            migrate(at(url))
            names += on(url, lambda c: c.execute(text("SELECT id, secret FROM installation")).all())
    assert len(names) == len({row.id for row in names}) == len({row.secret for row in names}) == 2

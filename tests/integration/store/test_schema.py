"""The schema: the migrations produce exactly the tables that `tables.py` declares."""

from __future__ import annotations

import asyncio
import subprocess
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

from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import DEFAULT_TENANT, JobSpec
from headrace_core.domain.submission import NewJob
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.migrate import alembic_config, head_revision, migrate, migrate_async
from headrace_core.store.schema import VERSION_TABLE, MigrationRejected
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import read_installation
from headrace_core.store.sql.tables import metadata
from headrace_core.store.upkeep.indexes import build_indexes
from support.databases import Databases
from support.server import run_async
from support.settings import environment_of
from support.until import until

T = TypeVar("T")

# A schema's catalog as text, without the numbers that PostgreSQL assigns.
CATALOG_QUERIES = {
    "tables": """
        SELECT relname, relkind, relpersistence, relrowsecurity, reloptions
        FROM pg_class WHERE {ours}
    """,
    "columns": """
        SELECT relname, rank() OVER (PARTITION BY attrelid ORDER BY attnum), attname,
            format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
            attstorage, attcompression, attstattarget, attcollation::regcollation,
            pg_get_expr(adbin, adrelid)
        FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attnum > 0 AND NOT attisdropped AND {ours} AND relkind = 'r'
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
    # Only the migrations declare the triggers of the audit log.
    "triggers": """
        SELECT relname, pg_get_triggerdef(pg_trigger.oid)
        FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE {ours} AND NOT tgisinternal AND tgname NOT LIKE '%audit%'
    """,
    # test_transition compares the body of `complete`; only the migrations declare `check_fence` and
    # the functions of the audit log and of the usage of tenants.
    "functions": """
        SELECT proname FROM pg_proc WHERE pronamespace = 'headrace'::regnamespace
            AND proname NOT IN ('check_fence', 'complete') AND proname NOT LIKE '%audit%'
            AND proname NOT LIKE 'payload_bytes%'
    """,
    "types": """
        SELECT typname FROM pg_type
        WHERE typnamespace = 'headrace'::regnamespace AND typtype NOT IN ('c', 'b')
    """,
}
FUNCTIONS = ["check_fence", "complete", "payload_bytes_of_jobs", "payload_bytes_of_tenant"]
OWN_TABLES = "relnamespace = 'headrace'::regnamespace AND relname NOT LIKE 'headrace_version%'"

Catalog = dict[str, list[tuple[Any, ...]]]


def settings_for(url: str) -> Settings:
    return Settings(database_url=SecretStr(url))


def read_catalog(connection: Connection) -> Catalog:
    return {
        name: sorted(
            (tuple(row) for row in connection.execute(text(query.format(ours=OWN_TABLES)))),
            key=repr,
        )
        for name, query in CATALOG_QUERIES.items()
    }


def read_functions(connection: Connection, schema: str = "headrace") -> list[str]:
    """Return the functions in a schema whose source names the tables of this schema."""
    named = """
        SELECT proname FROM pg_proc
        WHERE pronamespace = to_regnamespace(:schema)::oid
            AND prosrc LIKE '%' || :schema || '.jobs%'
        ORDER BY proname
    """
    return list(connection.execute(text(named), {"schema": schema}).scalars())


def run_on(url: str, function: Callable[[Connection], T]) -> T:
    """Run a function on a connection to a database, and commit."""

    async def run() -> T:
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: asyncpg.connect(
                settings_for(url).postgresql_url, server_settings={"search_path": "headrace"}
            ),
            poolclass=NullPool,
        )
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(function)
        finally:
            await engine.dispose()

    return run_async(run)


def declare(connection: Connection) -> None:
    connection.execute(text("CREATE SCHEMA headrace"))
    metadata.create_all(connection)


def test_migrated_schema_equals_the_declared_one(databases: Databases) -> None:
    with databases.fresh() as migrated, databases.fresh(migrated=False) as declared:
        run_on(declared, declare)
        actual, expected = run_on(migrated, read_catalog), run_on(declared, read_catalog)
    assert len(expected["tables"]) > 5
    for name in CATALOG_QUERIES:
        assert actual[name] == expected[name], name


@pytest.mark.filterwarnings("ignore:Did not recognize type .xid8")
def test_alembic_finds_nothing_to_migrate(databases: Databases) -> None:
    def compare(connection: Connection) -> object:
        # test_migrated_schema_equals_the_declared_one compares the defaults. Alembic would evaluate
        # them, and random values always differ.
        options = {"compare_type": True, "version_table": VERSION_TABLE}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    with databases.fresh() as url:
        assert run_on(url, compare) == []


def test_migrations_can_be_undone_and_repeated(databases: Databases) -> None:
    with databases.fresh() as url:
        before = run_on(url, read_catalog)
        command.downgrade(alembic_config(settings_for(url)), "base")
        assert not any(run_on(url, read_catalog).values())
        assert run_on(url, read_functions) == []
        migrate(settings_for(url))
        assert run_on(url, read_catalog) == before


def test_migration_0004_adds_its_checks_without_a_scan(databases: Databases) -> None:
    checks = "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0"
    with databases.fresh(migrated=False) as url:
        migrate(settings_for(url), revision="0004")
        # A new table is empty, so its checks are valid at once.
        tables = scalar(
            url,
            "SELECT array_agg(DISTINCT conrelid::bigint) FROM pg_constraint WHERE contype = 'c'",
        )
        checks += f" AND conrelid::bigint = ANY (ARRAY{tables})"
        old = scalar(url, checks)
        command.upgrade(alembic_config(settings_for(url)), "head")
        # A later migration replaces the step check of 0004.
        assert scalar(url, f"{checks} AND convalidated") == old - 1
        assert scalar(url, checks) > old
        migrate(settings_for(url))
        assert scalar(url, f"{checks} AND NOT convalidated") == 0


# Another application's tables, and an Alembic version table with one of Headrace's revisions.
ANOTHER_APPLICATION = (
    "CREATE TABLE public.alembic_version (version_num varchar(32) PRIMARY KEY)",
    "INSERT INTO public.alembic_version VALUES ('0004')",
    "CREATE TABLE public.jobs (id integer PRIMARY KEY, title text)",
    "INSERT INTO public.jobs VALUES (1, 'theirs')",
)


def run_all(url: str, *statements: str) -> None:
    run_on(url, lambda c: [c.execute(text(statement)) for statement in statements])


def scalar(url: str, statement: str) -> Any:
    return run_on(url, lambda c: c.execute(text(statement)).scalar())


def test_migrate_leaves_another_application_unchanged(databases: Databases) -> None:
    with databases.fresh(migrated=False) as url:
        run_all(url, *ANOTHER_APPLICATION)
        migrate(settings_for(url))
        assert scalar(url, "SELECT version_num FROM public.alembic_version") == "0004"
        assert scalar(url, "SELECT title FROM public.jobs") == "theirs"
        assert scalar(url, "SELECT count(*) FROM headrace.installation") == 1
        assert scalar(url, "SELECT version_num FROM headrace.headrace_version") == head_revision()
        # For a role with the schema's name, the search path starts with this schema.
        assert scalar(url, "SELECT to_regclass('headrace.alembic_version')") is None


def move_tables_back(url: str, old: str = "public") -> None:
    """Move the tables to the schema of revision 0005; the functions stay in `headrace`."""
    command.downgrade(alembic_config(settings_for(url)), "0005")
    tables = [table.name for table in metadata.sorted_tables]
    run_all(
        url,
        f"CREATE SCHEMA IF NOT EXISTS {old}",
        *(
            f"ALTER TABLE IF EXISTS headrace.{name} SET SCHEMA {old}"
            for name in (*tables, VERSION_TABLE)
        ),
        f"ALTER TABLE {old}.{VERSION_TABLE} RENAME CONSTRAINT {VERSION_TABLE}_pkc"
        " TO alembic_version_pkc",
        f"ALTER TABLE {old}.{VERSION_TABLE} RENAME TO alembic_version",
    )


@pytest.mark.parametrize("schema", ["headrace", "elsewhere", "public"])
def test_migrate_moves_an_old_installation_with_its_rows(databases: Databases, schema: str) -> None:
    with databases.fresh() as url:
        move_tables_back(url)
        run_all(url, "INSERT INTO public.pruned_jobs VALUES (gen_random_uuid(), 1, 2)")
        before = scalar(url, "SELECT id FROM public.installation")
        settings = settings_for(url).model_copy(update={"database_schema": schema})
        migrate(settings)
        migrate(settings)
        assert scalar(url, f"SELECT id FROM {schema}.installation") == before
        assert scalar(url, f"SELECT seq FROM {schema}.pruned_jobs") == 2
        assert scalar(url, f"SELECT version_num FROM {schema}.headrace_version") == head_revision()
        assert scalar(url, "SELECT to_regclass('public.alembic_version')") is None
        assert run_on(url, lambda c: read_functions(c, schema)) == FUNCTIONS
        if schema == "headrace":
            with databases.fresh() as fresh_url:
                assert run_on(url, read_catalog) == run_on(fresh_url, read_catalog)
        else:
            assert run_on(url, read_functions) == []


def test_second_schema_leaves_the_first_unchanged(databases: Databases) -> None:
    with databases.fresh() as url:
        first = scalar(url, "SELECT id FROM headrace.installation")
        migrate(settings_for(url).model_copy(update={"database_schema": "second"}))
        assert scalar(url, "SELECT id FROM headrace.installation") == first
        assert scalar(url, "SELECT id FROM second.installation") not in (first, None)
        for schema in ("headrace", "second"):
            actual = run_on(url, lambda c, schema=schema: read_functions(c, schema))
            assert actual == FUNCTIONS


def test_migrate_into_another_applications_tables_is_rejected(databases: Databases) -> None:
    with databases.fresh(migrated=False) as url:
        run_all(url, *ANOTHER_APPLICATION)
        settings = settings_for(url).model_copy(update={"database_schema": "public"})
        with pytest.raises(MigrationRejected, match=r'"public" already has a table "jobs"'):
            migrate(settings)
        assert scalar(url, "SELECT title FROM public.jobs") == "theirs"


def test_migrate_of_a_newer_schema_is_rejected(databases: Databases) -> None:
    with databases.fresh() as url:
        run_all(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        with pytest.raises(MigrationRejected, match="newer version of Headrace"):
            migrate(settings_for(url))


def test_migrate_without_privilege_names_the_database(databases: Databases) -> None:
    with databases.fresh(migrated=False) as url:
        name = url.rpartition("/")[2]
        run_all(
            url,
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
            "CREATE ROLE headrace_test_guest LOGIN PASSWORD 'pa55word'",
            f"GRANT CONNECT ON DATABASE {name} TO headrace_test_guest",
        )
        try:
            host = url.rpartition("@")[2]
            guest_url = f"postgresql://headrace_test_guest:pa55word@{host}"
            rejected = subprocess.run(
                [sys.executable, "-m", "headrace_core", "migrate"],
                env=environment_of(settings_for(guest_url)),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert rejected.returncode == 1
            assert f"permission denied for database {name}" in rejected.stderr
            assert "CREATE SCHEMA headrace" in rejected.stderr
            assert "pa55word" not in rejected.stderr
            # If an administrator creates the schema, the role needs no other privilege.
            run_all(url, "CREATE SCHEMA headrace AUTHORIZATION headrace_test_guest")
            migrate(settings_for(guest_url))
        finally:
            run_all(
                url,
                "DROP OWNED BY headrace_test_guest CASCADE",
                "DROP ROLE headrace_test_guest",
            )


@pytest.fixture
def bare_url(databases: Databases) -> Iterator[str]:
    """A database without the schema."""
    with databases.fresh(migrated=False) as url:
        yield url


async def test_concurrent_and_repeated_migrations_succeed(bare_url: str) -> None:
    # The test holds the migration lock until two migrations wait for it.
    lock = int.from_bytes(b"headrace") >> 1
    holder = await asyncpg.connect(bare_url)
    await holder.execute("SELECT pg_advisory_lock($1)", lock)
    one = asyncio.create_task(migrate_async(settings_for(bare_url)))
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace_core", "migrate"),
        env=environment_of(settings_for(bare_url)),
        stderr=asyncio.subprocess.PIPE,
    )

    async def both_wait() -> bool:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return bool(await holder.fetchval(waiting) == 2)

    await until(both_wait, within=60)
    await holder.execute("SELECT pg_advisory_unlock($1)", lock)
    async with asyncio.timeout(60):
        await one
        _, log = await other.communicate()
    assert other.returncode == 0, log
    assert b"database_migrated" in log
    # A repeated migration changes nothing.
    await migrate_async(settings_for(bare_url))
    assert await holder.fetchval("SELECT count(*) FROM installation") == 1
    await holder.close()


async def test_large_indexes_are_built_while_jobs_are_written(
    database: Database, settings: Settings
) -> None:
    async with database.statement() as conn:
        await conn.execute(text("DROP INDEX jobs_delayed_idx"))
    # A writing transaction is open before the build, and writes again while the build waits for it.
    async with database.transaction() as conn:
        await submit_jobs(conn, [new_job()])
        building = asyncio.create_task(migrate_async(settings))
        await until(lambda: waits_for_writers(database))
        async with database.transaction() as other:
            await submit_jobs(other, [new_job()])
        assert not building.done()
    await building
    assert await is_valid(database, "jobs_delayed_idx")


async def test_interrupted_index_build_is_repeated_once(database: Database) -> None:
    async with database.statement() as conn:
        await conn.execute(
            text(
                "UPDATE pg_index SET indisvalid = false "
                "WHERE indexrelid = 'jobs_delayed_idx'::regclass"
            )
        )
    assert not await is_valid(database, "jobs_delayed_idx")

    async def build() -> list[str]:
        async with database.statement() as conn:
            return await build_indexes(conn)

    assert sorted(await asyncio.gather(build(), build())) == [[], ["jobs_delayed_idx"]]
    assert await is_valid(database, "jobs_delayed_idx")


def new_job() -> NewJob:
    return NewJob(id=JobId(uuid7()), tenant=DEFAULT_TENANT, spec=JobSpec(type="email"))


async def waits_for_writers(database: Database) -> bool:
    """Return whether the build of an index waits for a transaction."""
    async with database.statement() as conn:
        return bool(
            await conn.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND wait_event_type = 'Lock' AND query LIKE 'CREATE INDEX CONCURRENTLY%'"
                )
            )
        )


async def is_valid(database: Database, name: str) -> bool:
    async with database.statement() as conn:
        valid = await conn.scalar(
            text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"),
            {"name": name},
        )
    return bool(valid)


async def test_database_has_one_id_and_one_secret(database: Database) -> None:
    async with database.transaction() as connection:
        one = await read_installation(connection)
        second = await read_installation(connection)
    assert one == second
    assert len(one.secret) == 32
    assert len(set(one.secret)) > 10
    assert one.secret.hex() not in repr(one)
    assert str(one.secret) not in repr(one)
    with pytest.raises(Exception, match="installation_singleton"):
        async with database.transaction() as connection:
            await connection.execute(text("INSERT INTO installation DEFAULT VALUES"))


def test_ids_and_secrets_of_databases_differ(databases: Databases) -> None:
    names = []
    for _ in range(2):
        with databases.fresh(migrated=False) as url:
            migrate(settings_for(url))
            names += run_on(
                url, lambda c: c.execute(text("SELECT id, secret FROM installation")).all()
            )
    assert len(names) == len({row.id for row in names}) == len({row.secret for row in names}) == 2

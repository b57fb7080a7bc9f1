"""Migration of a database to the schema of this version."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text

from headrace_core.runtime.settings import Settings
from headrace_core.store.schema import VERSION_TABLE, MigrationRejected
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.tables import TIME_COLUMNS
from headrace_core.store.upkeep.audit import FIRST_ID
from headrace_core.store.upkeep.clamp import (
    CLAMPED_TABLES,
    clamp_rows,
    drop_clamp_trigger,
    unvalidated_constraints,
    validate_constraint,
)
from headrace_core.store.upkeep.indexes import build_indexes
from headrace_core.store.upkeep.mend import MendResult, mend_documents
from headrace_core.store.upkeep.rebase import is_foreign, rebase

_log = structlog.get_logger()

# The advisory lock of migrations. Its key is made from the bytes of "headrace".
_LOCK = int.from_bytes(b"headrace") >> 1
LOCK = text(f"SELECT pg_advisory_xact_lock({_LOCK})")


def migrate(settings: Settings, *, revision: str = "head", restored: bool = False) -> None:
    """Run the missing migrations. Concurrent calls wait for each other.

    A database that was restored into another cluster is also rebased (see `rebase`).

    Args:
        settings: the URL of the database and the schema.
        revision: the last revision to apply.
        restored: whether to rebase even if the check finds no ids of another cluster.

    Raises:
        MigrationRejected: the schema belongs to another application or to a newer version.
    """
    try:
        command.upgrade(alembic_config(settings), revision)
    except CommandError as error:
        raise MigrationRejected(
            f'the schema "{settings.database_schema}" was migrated by a newer version of Headrace '
            f"({error}); use that version"
        ) from error
    if revision == "head":
        asyncio.run(_finish_migration(settings, restored=restored))


def mend(settings: Settings) -> MendResult:
    """Repair unreadable rows in a database with the schema of this version."""
    return asyncio.run(_mend_in_pages(settings))


async def migrate_async(settings: Settings) -> None:
    """Run `migrate` in a thread."""
    await asyncio.to_thread(migrate, settings)


def alembic_config(settings: Settings) -> Config:
    """Return Alembic's configuration, built without a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["settings"] = settings
    return config


def head_revision() -> str:
    """Return the newest revision that this version knows."""
    head = _scripts().get_current_head()
    assert head is not None
    return head


def known_revisions() -> list[str]:
    """Return every revision that this version knows, the newest first."""
    return [script.revision for script in _scripts().walk_revisions()]


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(Path(__file__).parent / "migrations"))


async def read_revision(conn: Connection) -> str | None:
    """Return the revision of a database; None if Headrace's tables are missing."""
    if await conn.scalar(_HAS_REVISION) is None:
        return None
    revision: str | None = await conn.scalar(_REVISION)
    return revision


_HAS_REVISION = text(f"SELECT to_regclass('{VERSION_TABLE}')::text")
_REVISION = text(f"SELECT version_num FROM {VERSION_TABLE}")


async def _mend_in_pages(settings: Settings) -> MendResult:
    database = Database(settings, application="migrate", bounded=False)
    try:
        # Transactions are short, because streams of many jobs wait for the oldest one that writes.
        times = documents = 0
        for table in TIME_COLUMNS:
            async with database.transaction() as connection:
                await connection.execute(LOCK)
                times += await clamp_rows(connection, table=table)
        after: UUID | None = FIRST_ID
        while after is not None:
            async with database.transaction() as connection:
                await connection.execute(LOCK)
                replaced, after = await mend_documents(connection, after=after)
            documents += replaced
        await _validate_constraints(database)
    finally:
        await database.close()
    return MendResult(times, documents)


async def _validate_constraints(database: Database) -> None:
    """Validate the constraints that rows from an older version can violate."""
    async with database.transaction() as connection:
        await connection.execute(LOCK)
        pending = await unvalidated_constraints(connection)
    for table, name in pending:
        # Transactions are separate, so a scan of one table does not lock another table.
        async with database.transaction() as connection:
            await connection.execute(LOCK)
            valid = await validate_constraint(connection, table=table, name=name)
        if not valid:
            _log.error(
                "rows_unreadable",
                table=table,
                constraint=name,
                advice="run `headrace verify` to list the rows and "
                "`python -m headrace_core mend` to repair them",
            )
    for table in CLAMPED_TABLES:
        async with database.transaction() as connection:
            await connection.execute(LOCK)
            await drop_clamp_trigger(connection, table=table)


async def _finish_migration(settings: Settings, *, restored: bool) -> None:
    # A rebase can update many events, so statements have no time limit.
    database = Database(settings, application="migrate", bounded=False)
    try:
        async with database.transaction() as connection:
            await connection.execute(LOCK)
            if restored or await is_foreign(connection):
                rebased = await rebase(connection)
                _log.warning(
                    "database_rebased",
                    events=rebased.events,
                    jobs=rebased.jobs,
                    subscriptions=rebased.subscriptions,
                )
        await _validate_constraints(database)
        async with database.statement() as connection:
            built = await build_indexes(connection)
        if built:
            _log.info("indexes_built", names=built)
    finally:
        await database.close()

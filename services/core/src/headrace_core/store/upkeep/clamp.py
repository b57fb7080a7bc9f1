"""The repair of rows with unreadable times or numbers. See migration 0007."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import TextClause, text

from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.tables import READABLE, TIME_COLUMNS
from headrace_core.store.sql.times import (
    clamped_time_sql,
    finite_condition,
    readable_interval_condition,
)

# The tables that have a trigger from migration 0007.
CLAMPED_TABLES: Final = ("jobs", "job_events")


async def unvalidated_constraints(conn: Connection) -> Sequence[tuple[str, str]]:
    """Return the constraints that older rows may violate (NOT VALID), as (table, name)."""
    return [(row.table, row.name) for row in await conn.execute(_UNVALIDATED)]


async def validate_constraint(conn: Connection, *, table: str, name: str) -> bool:
    """Validate a constraint. Writers do not wait for it.

    Returns:
        False if a row violates it.
    """
    # The identifiers come from PostgreSQL's catalog.
    await conn.execute(
        text(f"""
            DO $$ BEGIN
                ALTER TABLE {table} VALIDATE CONSTRAINT {name};
            EXCEPTION WHEN check_violation THEN
                NULL;
            END $$
        """)
    )
    return (table, name) not in await unvalidated_constraints(conn)


async def drop_clamp_trigger(conn: Connection, *, table: str) -> None:
    """Drop the trigger of a table if all its rows are readable.

    Args:
        conn: a connection with a separate transaction, because locks on two tables could cause
            a deadlock with a service.
        table: one of `CLAMPED_TABLES`.
    """
    if (table, f"{table}_times_check") in await unvalidated_constraints(conn):
        return
    if await conn.scalar(_HAS_TRIGGER, {"table": table, "name": f"{table}_clamp"}):
        await conn.execute(text(f"DROP TRIGGER {table}_clamp ON {table}"))
        await conn.execute(text(f"DROP FUNCTION clamp_{table}()"))


async def clamp_rows(conn: Connection, *, table: str) -> int:
    """Replace the unreadable times of a table with the nearest time that a submitter can request.

    An unreadable timeout is removed, so the handler's timeout applies. States do not change.

    Returns:
        The number of changed rows.
    """
    return (await conn.execute(_CLAMP_STATEMENTS[table])).rowcount


_UNVALIDATED = text("""
    SELECT r.relname AS table, conname AS name
    FROM pg_constraint JOIN pg_class r ON r.oid = conrelid
    WHERE contype = 'c' AND NOT convalidated
        AND conrelid = ANY (CAST(ARRAY['jobs', 'job_events', 'batches', 'workers', 'leadership',
            'subscriptions'] AS regclass[]))
    ORDER BY 1, 2
""")

_HAS_TRIGGER = text("""
    SELECT EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = CAST(CAST(:table AS text) AS regclass) AND tgname = :name
    )
""")


def _clamp_statement(table: str, columns: Sequence[str]) -> TextClause:
    values = [
        f"{name} = CASE WHEN {name} IS NOT NULL THEN {clamped_time_sql(name)} END"
        for name in columns
    ]
    if table == "jobs":
        values.append(
            f"timeout = CASE WHEN {readable_interval_condition('timeout')} THEN timeout END"
        )
        values.append(
            f"rank = CASE WHEN {finite_condition('rank')} THEN rank ELSE "
            f"extract(epoch FROM {clamped_time_sql('due_time')}) * 1000 - priority * 60000 END"
        )
    return text(f"UPDATE {table} SET {', '.join(values)} WHERE NOT ({READABLE[table]})")


_CLAMP_STATEMENTS = {
    table: _clamp_statement(table, columns) for table, columns in TIME_COLUMNS.items()
}

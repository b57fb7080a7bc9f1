"""Databases with millions of earlier jobs, stored as the store would have written them.

SQL inserts the rows, because running ten million jobs would take hours. A waiting job has its row
and its `submitted` event, a finished job its row and all three events; ids and times are spread
over the preceding days. Many transactions insert the rows in the order of their ids, as the store
would. Then the indexes are built, the tables are vacuumed and analyzed (as autovacuum would do),
and all data is written to disk. Syncs to disk are off only during the insert.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final

import asyncpg

from bench.compare.databases import Databases

# Jobs per transaction, and concurrent transactions.
_JOBS_PER_TRANSACTION: Final = 50_000
_CONCURRENT_TRANSACTIONS: Final = 2
# PostgreSQL settings for a fast insert.
_FAST_INSERT: Final = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "8GB"}

_CONSTRAINTS: Final = """
    SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid)
    FROM pg_constraint
    WHERE conrelid IN ('jobs'::regclass, 'job_events'::regclass) AND contype IN ('p', 'u')
"""
_INDEXES: Final = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)
    FROM pg_index WHERE indrelid IN ('jobs'::regclass, 'job_events'::regclass)
"""


class EarlierJobs(Enum):
    """The earlier jobs of a database; the value is printed after their number."""

    UNSERVED = "waiting, of a type without workers, in the same queue"
    SCHEDULED = "scheduled for another day, of the same type and queue"
    FINISHED = "finished"


async def fill(databases: Databases, url: str, kind: EarlierJobs, count: int) -> None:
    """Insert jobs into a migrated database.

    Args:
        databases: the server's databases.
        url: the URL of the database.
        kind: the kind of jobs.
        count: the number of jobs.
    """
    statement = _INSERT_FINISHED if kind is EarlierJobs.FINISHED else _INSERT_WAITING[kind]
    parts = iter(range(0, count, _JOBS_PER_TRANSACTION))

    async def insert() -> None:
        async with databases.connection(url) as connection:
            # All connections share the iterator, so the oldest jobs are inserted first.
            for start in parts:
                await connection.execute(
                    statement, start, min(_JOBS_PER_TRANSACTION, count - start), count
                )

    async with databases.connection(url) as connection:
        async with _fast_insert(connection), _without_indexes(connection):
            await asyncio.gather(*(insert() for _ in range(_CONCURRENT_TRANSACTIONS)))
        await connection.execute("VACUUM (ANALYZE)")
    await asyncio.to_thread(os.sync)
    await databases.write_dirty_pages()


@asynccontextmanager
async def _fast_insert(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Turn off syncs to disk for the duration of the block."""
    try:
        for name, value in _FAST_INSERT.items():
            await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await _reload(connection, fsync="off")
        yield
    finally:
        for name in _FAST_INSERT:
            await connection.execute(f"ALTER SYSTEM RESET {name}")
        await _reload(connection, fsync="on")
        await connection.execute("CHECKPOINT")


async def _reload(connection: asyncpg.Connection, *, fsync: str) -> None:
    """Let the server reload its settings; wait until this session sees them."""
    await connection.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(30):
        while await connection.fetchval("SHOW fsync") != fsync:  # noqa: ASYNC110 - a server's
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _without_indexes(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Drop the indexes and build them after the block, which makes the insert much faster."""
    constraints = await connection.fetch(_CONSTRAINTS)
    for table, name, _ in constraints:
        await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    indexes = await connection.fetch(_INDEXES)
    for name, _ in indexes:
        await connection.execute(f"DROP INDEX {name}")
    yield
    await connection.execute("SET maintenance_work_mem = '1GB'")
    for table, name, definition in constraints:
        await connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    for _, definition in indexes:
        await connection.execute(definition.replace(" ON ONLY ", " ON "))
    await connection.execute("RESET maintenance_work_mem")


# Rows by number. Ids start with the milliseconds of their time, like the store's ids (RFC 9562,
# version 7). $1: the first number, $2: the number of rows, $3: the total of all parts.
_NUMBERED_ROWS: Final = """
    WITH numbered AS (
        SELECT n, moment, overlay(overlay(
                lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0')
                    || md5(n::text)
                PLACING '7' FROM 13) PLACING '8' FROM 17
            )::text AS hex
        FROM generate_series($1::bigint, $1::bigint + $2::bigint - 1) AS n,
            LATERAL (SELECT now() - interval '1 day' - ($3::bigint - n) * interval '10 ms'
                AS moment) AS m
    ),
    job AS (
        SELECT n, moment, left(hex, 32)::uuid AS id FROM numbered
    )
"""

_INSERT_WAITING_ROWS: Final = (
    _NUMBERED_ROWS
    + """,
    created AS (
        INSERT INTO jobs (
            id, tenant, type, queue, payload, priority, labels, state, rank,
            create_time, due_time, queue_time, update_time
        )
        SELECT id, 'default', '{type}', 'default', json_build_object('n', n), 0, '{{}}', '{state}',
            extract(epoch FROM {due}) * 1000, moment, {due}, {queued}, moment
        FROM job ORDER BY id
        RETURNING id, xid, create_time, due_time
    )
    INSERT INTO job_events (job_id, seq, xid, tenant, type, state, attempt, time, due_time)
    SELECT id, 1, xid, 'default', 'submitted', '{state}', 0, create_time, {event_due}
    FROM created ORDER BY id
"""
)

_INSERT_WAITING: Final = {
    EarlierJobs.UNSERVED: _INSERT_WAITING_ROWS.format(
        type="nobody", state="queued", due="moment", queued="moment", event_due="NULL"
    ),
    EarlierJobs.SCHEDULED: _INSERT_WAITING_ROWS.format(
        type="noop",
        state="scheduled",
        due="moment + interval '30 days'",
        queued="NULL",
        event_due="due_time",
    ),
}

_INSERT_FINISHED: Final = (
    _NUMBERED_ROWS
    + """,
    ended AS (
        INSERT INTO jobs (
            id, tenant, type, queue, payload, priority, labels, state, attempt, seq, result,
            worker_id, rank, create_time, due_time, queue_time, start_time, end_time, update_time
        )
        SELECT id, 'default', 'noop', 'default', json_build_object('n', n), 0, '{}', 'succeeded',
            1, 3, 'null', 'c0ffee00-0000-7000-8000-000000000000',
            extract(epoch FROM moment) * 1000, moment, moment, moment,
            moment + interval '20 ms', moment + interval '30 ms', moment + interval '30 ms'
        FROM job ORDER BY id
        RETURNING id, xid, create_time, worker_id
    )
    INSERT INTO job_events (job_id, seq, xid, tenant, type, state, attempt, time, worker_id)
    SELECT id, seq, xid, 'default', type, state, least(seq - 1, 1),
        create_time + (seq - 1) * interval '15 ms', CASE WHEN seq > 1 THEN worker_id END
    FROM ended, (VALUES
        (1, 'submitted', 'queued'), (2, 'started', 'running'), (3, 'succeeded', 'succeeded')
    ) AS step (seq, type, state)
    ORDER BY id, seq
"""
)

"""due: SCHEDULED, RETRYING → QUEUED."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from headrace_core.domain.lifecycle import EventType
from headrace_core.store.jobs.new_jobs import RANK
from headrace_core.store.leadership import CURRENT_TERM, of_term
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.guards import EVENT_XID, source_guard
from headrace_core.store.sql.times import clamped


async def promote_due(conn: Connection, *, term: int, limit: int) -> int:
    """Queues up to `limit` jobs whose time has come, the longest due first; returns how many.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    queued: int = of_term(term, await conn.execute(_PROMOTE, {"term": term, "limit": limit}))[0][0]
    return queued


async def next_due(conn: Connection) -> timedelta | None:
    """How long until the next job is due (negative when it is late); None when none waits."""
    wait: timedelta | None = await conn.scalar(_NEXT)
    return wait


_PROMOTE = text(f"""
    WITH {CURRENT_TERM},
    due AS (
        SELECT id FROM jobs j
        -- The time of the statement, and not of each row: the index ends the scan at it.
        WHERE EXISTS (SELECT FROM current_term)
            AND {source_guard(EventType.DUE)} AND due_time <= statement_timestamp()
        ORDER BY due_time, id LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ),
    queued AS (
        UPDATE jobs j
        SET state = 'queued', seq = j.seq + 1, xid = {EVENT_XID}, queue_time = clock_timestamp(),
            rank = {RANK.format(due="j.due_time", priority="j.priority")},
            update_time = clock_timestamp()
        FROM due WHERE j.id = due.id
        RETURNING j.id, j.seq, j.xid, j.tenant, j.state, j.attempt, j.update_time
    ),
    event AS (
        INSERT INTO job_events (job_id, seq, xid, tenant, type, state, attempt, time)
        SELECT id, seq, xid, tenant, 'due', state, attempt, update_time FROM queued ORDER BY id
    )
    SELECT (SELECT count(*) FROM queued) FROM current_term
""")

_NEXT = text(f"""
    SELECT CASE WHEN first.due_time IS NOT NULL
        THEN {clamped("first.due_time")} - clock_timestamp() END
    FROM (SELECT min(due_time) AS due_time FROM jobs j WHERE {source_guard(EventType.DUE)}) first
""")

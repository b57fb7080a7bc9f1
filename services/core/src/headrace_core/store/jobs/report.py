"""progressed, output: RUNNING → RUNNING."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.guards import EVENT_XID, keyed_guard
from headrace_core.store.sql.rows import column, from_progress


async def write_reports(
    conn: Connection, *, worker_id: WorkerId, reports: Sequence[AttemptReport]
) -> set[AttemptKey]:
    """Write each report as an event, in the order given.

    Returns:
        The attempts whose reports were written. The reports of all others were refused, because
        the attempt is no longer this worker's.
    """
    rows = await conn.execute(
        _REPORT,
        {
            "worker_id": worker_id,
            "ids": [report.key.job_id for report in reports],
            "attempts": [report.key.attempt for report in reports],
            "progresses": [from_progress(report.progress) for report in reports],
            "outputs": column(reports, "output"),
        },
    )
    return {AttemptKey(row.id, row.attempt) for row in rows}


async def count_reports(conn: Connection, key: AttemptKey) -> int:
    """Count the reports of an attempt that have been written.

    Args:
        conn: needs a transaction, because the count waits for a report that is being written.
        key: the attempt.
    """
    await conn.execute(_LOCK, {"id": key.job_id})
    # A separate statement, so that its snapshot has all reports written before the lock.
    count: int = await conn.scalar(_COUNT, {"id": key.job_id, "attempt": key.attempt})
    return count


# The lock of a report. A handler's `check_fence` does not block it: the handler may be waiting for
# this answer.
_LOCK = text("SELECT FROM jobs WHERE id = :id FOR NO KEY UPDATE")

_COUNT = text("""
    SELECT count(*) FROM job_events
    WHERE job_id = :id AND attempt = :attempt AND type IN ('progressed', 'output')
""")

_REPORT = text(f"""
    WITH input AS (
        SELECT *, row_number() OVER (PARTITION BY id, attempt ORDER BY ordinal) AS number
        FROM unnest(
            CAST(:ids AS uuid[]), CAST(:attempts AS integer[]), CAST(:progresses AS text[]),
            CAST(:outputs AS text[])
        ) WITH ORDINALITY AS t (id, attempt, progress, output, ordinal)
    ),
    summed AS (
        SELECT id, attempt, count(*)::integer AS reports,
            (array_agg(progress ORDER BY ordinal DESC) FILTER (WHERE progress IS NOT NULL))[1]
                AS progress
        FROM input GROUP BY id, attempt
    ),
    own AS (
        SELECT j.id, s.reports, s.progress
        FROM jobs j JOIN summed s ON s.id = j.id AND s.attempt = j.attempt
        WHERE {keyed_guard(EventType.PROGRESSED)} AND j.worker_id = :worker_id
        ORDER BY j.id
        FOR NO KEY UPDATE OF j
    ),
    reported AS (
        UPDATE jobs j
        SET seq = j.seq + own.reports, xid = {EVENT_XID},
            progress = coalesce(own.progress::json, j.progress), update_time = clock_timestamp()
        FROM own WHERE j.id = own.id
        RETURNING j.id, j.attempt, j.seq - own.reports AS seq, j.xid, j.tenant, j.state,
            j.update_time
    ),
    event AS (
        INSERT INTO job_events (
            job_id, seq, xid, tenant, type, state, attempt, time, progress, output
        )
        SELECT t.id, t.seq + i.number, t.xid, t.tenant,
            CASE WHEN i.output IS NULL THEN 'progressed' ELSE 'output' END,
            t.state, t.attempt, t.update_time, i.progress::json, i.output::json
        FROM reported t JOIN input i ON i.id = t.id AND i.attempt = t.attempt
        ORDER BY t.id, i.number
    )
    SELECT id, attempt FROM reported
""")

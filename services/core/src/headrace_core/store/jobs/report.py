"""progressed, output: RUNNING → RUNNING."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from headrace_core.domain.finish import Report
from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.guards import EVENT_XID, keyed_guard
from headrace_core.store.sql.rows import column, from_progress


async def write_reports(
    conn: Connection, *, worker_id: WorkerId, reports: Sequence[Report]
) -> set[JobId]:
    """Writes what running attempts said, each report as an event of its own, in the order given.

    Returns:
        The jobs whose reports were taken; those of any other job were refused, since its attempt
        is no longer this worker's.
    """
    rows = await conn.execute(
        _REPORT,
        {
            "worker_id": worker_id,
            "ids": column(reports, "job_id"),
            "attempts": column(reports, "attempt"),
            "progresses": [from_progress(report.progress) for report in reports],
            "outputs": column(reports, "output"),
        },
    )
    return {row.id for row in rows}


async def count_reports(conn: Connection, *, job_id: JobId, attempt: int) -> int:
    """How many reports of an attempt have been written.

    Args:
        conn: must have a transaction: it waits for whoever is writing one now.
        job_id: the job.
        attempt: which of its attempts.
    """
    await conn.execute(_LOCK, {"id": job_id})
    # A statement of its own: it sees what was written until the lock was had.
    count: int = await conn.scalar(_COUNT, {"id": job_id, "attempt": attempt})
    return count


# As a report that is being written now, and not what a handler's `check_fence` would hold off: that
# one may wait for this answer.
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
    told AS (
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
        FROM told t JOIN input i ON i.id = t.id AND i.attempt = t.attempt
        ORDER BY t.id, i.number
    )
    SELECT id FROM told
""")

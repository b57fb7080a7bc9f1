"""The `progressed` and `output` transitions: RUNNING → RUNNING."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.documents import column, from_progress
from headrace_core.store.sql.transition import EventSeries, Lock, Selection, Transition


async def write_reports(
    conn: Connection, *, worker_id: WorkerId, reports: Sequence[AttemptReport]
) -> set[AttemptKey]:
    """Write each report as an event, in the order given.

    Returns:
        The attempts whose reports were written. All other reports were rejected, because their
        attempts no longer belong to this worker.
    """
    rows = await conn.execute(
        _REPORT.statement,
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
        conn: a connection with an open transaction: the count waits for a report that is
            being written.
        key: the attempt.
    """
    await conn.execute(_LOCK, {"id": key.job_id})
    # A separate statement has a new snapshot, which contains all reports written before the lock.
    count: int = await conn.scalar(_COUNT, {"id": key.job_id, "attempt": key.attempt})
    return count


# The same lock as for a report. It does not wait for a handler's `check_fence`, because the handler
# may be waiting for this count.
_LOCK = text("SELECT FROM jobs WHERE id = :id FOR NO KEY UPDATE")

_COUNT = text("""
    SELECT count(*) FROM job_events
    WHERE job_id = :id AND attempt = :attempt AND type IN ('progressed', 'output')
""")

_REPORT = Transition(
    name="reported",
    events=(EventType.PROGRESSED, EventType.OUTPUT),
    before=[
        """input AS (
            SELECT *, row_number() OVER (PARTITION BY id, attempt ORDER BY ordinal) AS number
            FROM unnest(
                CAST(:ids AS uuid[]), CAST(:attempts AS integer[]), CAST(:progresses AS text[]),
                CAST(:outputs AS text[])
            ) WITH ORDINALITY AS t (id, attempt, progress, output, ordinal)
        )""",
        """summed AS (
            SELECT id, attempt, count(*)::integer AS reports,
                (array_agg(progress ORDER BY ordinal DESC) FILTER (WHERE progress IS NOT NULL))[1]
                    AS progress
            FROM input GROUP BY id, attempt
        )""",
    ],
    rows=Selection(
        "own",
        """
            SELECT j.id, s.reports, s.progress
            FROM jobs j JOIN summed s ON s.id = j.id AND s.attempt = j.attempt
            WHERE $guard AND j.worker_id = :worker_id
            ORDER BY j.id
            $lock
        """,
        Lock.WAIT,
    ),
    keyed=True,
    changes={"progress": "coalesce(own.progress::json, j.progress)"},
    series=EventSeries(
        join="JOIN input i ON i.id = e.id AND i.attempt = e.attempt",
        number="i.number",
        per_row="own.reports",
    ),
    event_type="CASE WHEN i.output IS NULL THEN 'progressed' ELSE 'output' END",
    event_columns={"progress": "i.progress::json", "output": "i.output::json"},
    result="SELECT id, attempt FROM reported",
)

"""The search for stuck jobs. Any job can appear stuck briefly, so callers search twice."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from headrace_core.domain.lifecycle import EventType
from headrace_core.store.jobs.waiting import live_pools, ready_heads
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.transition import TERMINAL_LIST, source_guard
from headrace_core.store.workers import LIVE_WORKER

# The maximum number of stuck jobs per check, the oldest first.
_MAX_STUCK_JOBS = 1000


class StuckJob(NamedTuple):
    """A job that waits for a service. Two searches return equal values if it did not change.

    Attributes:
        check: the reason: `lease`, `due`, `deadline` or `delivery`.
        job_id: the job.
        version: the number of the job's newest event; for `delivery`, the next attempt.
        text: a description.
    """

    check: str
    job_id: UUID
    version: int
    text: str


async def find_stuck(conn: Connection, *, deadline_grace: timedelta) -> set[StuckJob]:
    """Find stuck jobs.

    Stuck jobs are RUNNING jobs without a live worker, jobs that are due or past their deadline, and
    the first job of each lane that is served by a pool with mostly free slots.

    Args:
        conn: a connection, with or without a transaction.
        deadline_grace: the time after the deadline during which a job may still run.
    """
    rows = await conn.execute(_STUCK_JOBS, {"grace": deadline_grace, "most": _MAX_STUCK_JOBS})
    found = {StuckJob(row.broken, row.id, row.seq, row.detail) for row in rows}
    roomy = [pool.name for pool in await live_pools(conn) if 2 * pool.running < pool.slots]
    for head in await ready_heads(conn, pools=roomy, limit=1, known={}):
        found |= {
            StuckJob(
                "delivery",
                key.job_id,
                key.attempt,
                f"QUEUED first in {head.lane.queue}, although its workers have free slots",
            )
            for key in head.keys
        }
    return found


_STUCK_JOBS = text(f"""
    (SELECT 'lease' AS broken, j.id, j.seq,
        CASE WHEN w.id IS NULL THEN 'RUNNING, but worker ' || j.worker_id || ' is missing'
            ELSE 'RUNNING, but the lease of worker ' || j.worker_id || ' lapsed at '
                || w.lease_expire_time END AS detail
    FROM jobs j LEFT JOIN workers w ON w.id = j.worker_id
    WHERE {source_guard(EventType.WORKER_LOST)} AND (w.id IS NULL OR NOT {LIVE_WORKER})
    ORDER BY j.worker_id, j.id LIMIT :most)
    UNION ALL
    (SELECT 'due', j.id, j.seq, upper(j.state) || ', but was due at ' || j.due_time
    FROM jobs j
    WHERE {source_guard(EventType.DUE)} AND j.due_time <= statement_timestamp()
    ORDER BY j.due_time, j.id LIMIT :most)
    UNION ALL
    (SELECT 'deadline', j.id, j.seq,
        upper(j.state) || ', but the deadline was ' || j.deadline
    FROM jobs j
    WHERE j.deadline IS NOT NULL AND j.state NOT IN ({TERMINAL_LIST})
        AND j.deadline <= statement_timestamp() - CAST(:grace AS interval)
    ORDER BY j.deadline, j.id LIMIT :most)
""")

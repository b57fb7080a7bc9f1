"""Jobs that somebody should be moving on. Each may be so for a moment: who looks, looks twice."""

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

# How many of a kind are looked at, the oldest ones.
_MOST = 1000


class Stuck(NamedTuple):
    """A job that waits for somebody; the same one again when it has not moved meanwhile.

    Attributes:
        check: for what: `lease`, `due`, `deadline`, `delivery`.
        job_id: which job.
        version: grows with each of its transitions.
        text: in words.
    """

    check: str
    job_id: UUID
    version: int
    text: str


async def find_stuck(conn: Connection, *, deadline_grace: timedelta) -> set[Stuck]:
    """Finds RUNNING jobs without a live worker, jobs that are due or past their deadline, and the
    heads of lanes that wait although most slots of a pool which serves them are free.

    Args:
        conn: where to read.
        deadline_grace: how much longer than its deadline a job may live.
    """
    rows = await conn.execute(_STUCK, {"grace": deadline_grace, "most": _MOST})
    found = {Stuck(row.broken, row.id, row.seq, row.detail) for row in rows}
    roomy = [pool.name for pool in await live_pools(conn) if 2 * pool.running < pool.slots]
    for head in await ready_heads(conn, pools=roomy, limit=1, behind={}):
        found |= {
            Stuck(
                "delivery",
                key.job_id,
                key.attempt,
                f"it is QUEUED first in {head.lane.queue}, and workers that serve it have slots",
            )
            for key in head.keys
        }
    return found


_STUCK = text(f"""
    (SELECT 'lease' AS broken, j.id, j.seq,
        'it is RUNNING, and its worker ' || j.worker_id ||
        CASE WHEN w.id IS NULL THEN ' is not there'
            ELSE ' has had no lease since ' || w.lease_expire_time END AS detail
    FROM jobs j LEFT JOIN workers w ON w.id = j.worker_id
    WHERE {source_guard(EventType.WORKER_LOST)} AND (w.id IS NULL OR NOT {LIVE_WORKER})
    ORDER BY j.worker_id, j.id LIMIT :most)
    UNION ALL
    (SELECT 'due', j.id, j.seq, 'it is ' || upper(j.state) || ', and was due at ' || j.due_time
    FROM jobs j
    WHERE {source_guard(EventType.DUE)} AND j.due_time <= statement_timestamp()
    ORDER BY j.due_time, j.id LIMIT :most)
    UNION ALL
    (SELECT 'deadline', j.id, j.seq,
        'it is ' || upper(j.state) || ', and its deadline was ' || j.deadline
    FROM jobs j
    WHERE j.deadline IS NOT NULL AND j.state NOT IN ({TERMINAL_LIST})
        AND j.deadline <= statement_timestamp() - CAST(:grace AS interval)
    ORDER BY j.deadline, j.id LIMIT :most)
""")

"""The depth of each queue, over all tenants, for metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text

from headrace_core.domain.lifecycle import EventType
from headrace_core.store.jobs.waiting import LANES, lane_head_sql
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.transition import source_guard
from headrace_core.store.workers import LIVE_WORKER


class QueueDepth(NamedTuple):
    """The jobs of a queue.

    Attributes:
        queue: the queue; empty for the sum of all queues that no live worker names.
        queued: the number of QUEUED jobs.
        running: the number of RUNNING jobs.
        oldest_age: the time since the oldest QUEUED job was queued, in seconds; 0 without one.
    """

    queue: str
    queued: int
    running: int
    oldest_age: float


async def queue_depths(conn: Connection, *, limit: int) -> Sequence[QueueDepth]:
    """Return the depths of the queues that live workers or their handlers name, and of the rest.

    Clients choose the queues of jobs, but only workers name queues, so their number is bounded.

    Args:
        conn: a connection with a snapshot, because the statement can read millions of rows.
        limit: the maximum number of named queues; in name order, the others count as the rest.
    """
    rows = await conn.execute(_DEPTHS, {"limit": limit, "next": _NEXT_JOBS})
    return [QueueDepth(row.queue, row.queued, row.running, row.oldest_age) for row in rows]


# The number of jobs of a lane, in the order of their start, among which the oldest is searched.
_NEXT_JOBS = 20

_DEPTHS = text(f"""
    WITH RECURSIVE {LANES},
    named AS MATERIALIZED (
        SELECT queue FROM (
            SELECT unnest(w.queues) AS queue FROM workers w WHERE {LIVE_WORKER}
            UNION
            SELECT h.queue FROM workers w JOIN worker_handlers h ON h.worker_id = w.id
                WHERE {LIVE_WORKER}
        ) q ORDER BY queue LIMIT :limit
    ),
    counted AS (
        SELECT j.queue, count(*) AS queued, 0 AS running, NULL::timestamptz AS oldest
        FROM jobs j WHERE {source_guard(EventType.STARTED)} GROUP BY j.queue
        UNION ALL
        SELECT j.queue, 0, count(*), NULL FROM jobs j WHERE j.state = 'running' GROUP BY j.queue
        UNION ALL
        SELECT l.queue, 0, 0, min(h.queue_time) FILTER (WHERE isfinite(h.queue_time))
        FROM lane l CROSS JOIN LATERAL (
            SELECT j.queue_time FROM jobs j {lane_head_sql("l")} LIMIT :next
        ) h GROUP BY l.queue
        UNION ALL
        SELECT queue, 0, 0, NULL FROM named
        UNION ALL
        SELECT '', 0, 0, NULL
    )
    SELECT queue, sum(queued)::bigint AS queued, sum(running)::bigint AS running,
        greatest(0, coalesce(extract(epoch FROM clock_timestamp() - min(oldest)), 0))
            ::double precision AS oldest_age
    FROM (
        SELECT CASE WHEN c.queue IN (SELECT queue FROM named) THEN c.queue ELSE '' END AS queue,
            c.queued, c.running, c.oldest
        FROM counted c
    ) labelled
    GROUP BY queue ORDER BY queue
""")

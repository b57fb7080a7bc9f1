"""Live pools and waiting jobs, for dispatch and for queue health."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.pool import Head, Lane, Pool, ReadyJob, ServedQueues
from headrace_core.store.leadership import CURRENT_TERM, check_term
from headrace_core.store.sql.connection import Connection, Row
from headrace_core.store.sql.transition import source_guard
from headrace_core.store.workers import (
    ACCEPTING_WORKER,
    serves_tenant,
    tenant_may_start,
    to_tenants,
)


async def live_pools(conn: Connection, *, term: int | None = None) -> list[Pool]:
    """Return the pools with live workers that are not draining.

    Args:
        conn: a connection, with or without a transaction.
        term: the term of the scheduler that delivers to them; None for other callers.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    if term is None:
        rows: Iterable[Row] = await conn.execute(_POOLS)
    else:
        led = check_term(term, await conn.execute(_POOLS_OF_TERM, {"term": term}))
        rows = (row for row in led if row.pool is not None)
    return [
        Pool(
            name=row.pool,
            tenants=to_tenants(row),
            queues=frozenset(row.queues),
            types=frozenset(row.types),
            workers=row.workers,
            slots=row.slots,
            running=row.running,
        )
        for row in rows
    ]


async def ready_heads(
    conn: Connection, *, pools: Sequence[str], limit: int, known: Mapping[Lane, int]
) -> list[Head]:
    """Return the heads of the lanes that live workers of `pools` serve.

    Args:
        conn: a connection, with or without a transaction.
        pools: the names of the pools.
        limit: the total number of jobs needed. A single lane returns up to this number. If several
            lanes are served, each returns about twice its share, because the order of jobs across
            lanes is unknown.
        known: the number of jobs at the head of each lane that the caller knows. Each lane returns
            this many jobs in addition.
    """
    rows = await conn.execute(
        _HEADS,
        {
            "pools": list(pools),
            "limit": limit,
            "tenants": [lane.tenant for lane in known],
            "queues": [lane.queue for lane in known],
            "types": [lane.type for lane in known],
            "counts": list(known.values()),
        },
    )
    return [
        Head(
            lane=Lane(row.tenant, row.queue, row.type),
            ranks=row.ranks,
            keys=list(map(AttemptKey, row.ids, row.attempts)),
            whole=len(row.ids) < row.size,
        )
        for row in rows
        # The jobs of a lane can be claimed during the statement.
        if row.ids
    ]


async def ready_jobs(conn: Connection, *, pools: Sequence[str], limit: int) -> list[ReadyJob]:
    """Return the next QUEUED jobs that live workers of `pools` can run, in order.

    Args:
        conn: a connection, with or without a transaction.
        pools: the names of the pools.
        limit: the maximum number of jobs.
    """
    heads = await ready_heads(conn, pools=pools, limit=limit, known={})
    jobs = sorted(job for head in heads for job in head)[:limit]
    # An incomplete lane may have further jobs that precede the jobs of other lanes.
    ends = [head.ranks[-1] for head in heads if not head.whole]
    return [job for job in jobs if job.rank <= min(ends)] if ends else jobs


async def served_queues(conn: Connection, *, tenant: str) -> ServedQueues:
    """Return the known queues, and the queues of live workers that are not draining.

    Queues without QUEUED jobs are found among the tenant's newest jobs, because no index contains
    the queues of all jobs.
    """
    rows = await conn.execute(_SERVED_QUEUES, {"tenant": tenant})
    queues = await conn.execute(_KNOWN_QUEUES, {"tenant": tenant, "newest": _NEWEST_JOBS})
    return ServedQueues(
        frozenset(frozenset(row.queues) for row in rows),
        frozenset(row.queue for row in queues),
        {row.queue: row.served for row in queues if row.served is not None},
    )


def lane_head_sql(lane: str) -> str:
    """Return WHERE … ORDER BY for the waiting jobs `j` of a lane, in order.

    The condition is an index range. With an equality condition, a planner without statistics
    expects a single row and may read and sort all jobs of the tenant.
    """
    return f"""WHERE {source_guard(EventType.STARTED)}
                AND (j.tenant, j.queue, j.type, j.rank)
                    >= ({lane}.tenant, {lane}.queue, {lane}.type, '-infinity'::double precision)
                AND (j.tenant, j.queue, j.type, j.rank)
                    <= ({lane}.tenant, {lane}.queue, {lane}.type, 'infinity'::double precision)
            ORDER BY j.tenant, j.queue, j.type, j.rank, j.id"""


# For WITH RECURSIVE: find each lane with one look-up in the index of queued jobs.
LANES: Final = f"""lane AS (
        (SELECT tenant, queue, type FROM jobs j WHERE {source_guard(EventType.STARTED)}
            ORDER BY tenant, queue, type LIMIT 1)
        UNION ALL
        SELECT n.* FROM lane l CROSS JOIN LATERAL (
            SELECT j.tenant, j.queue, j.type FROM jobs j
            WHERE {source_guard(EventType.STARTED)}
                AND (j.tenant, j.queue, j.type) > (l.tenant, l.queue, l.type)
            ORDER BY j.tenant, j.queue, j.type LIMIT 1
        ) n
    )"""

# The condition that handler `h` of worker `w` serves lane `l`.
SERVES_LANE: Final = f"""{serves_tenant("l.tenant")} AND h.type = l.type AND {ACCEPTING_WORKER}
            AND (w.queues = '{{}}' OR l.queue = ANY (w.queues))"""

_LIVE_POOLS = f"""
    SELECT w.pool, w.tenant, w.tenants, w.queues, count(*) AS workers, sum(w.slots) AS slots,
        sum((SELECT count(*) FROM jobs j
            WHERE j.worker_id = w.id AND j.state = 'running'))::integer AS running,
        ARRAY(SELECT h.type FROM worker_handlers h
            WHERE h.worker_id = (array_agg(w.id))[1]) AS types
    FROM workers w
    WHERE {ACCEPTING_WORKER}
    GROUP BY w.pool, w.tenant, w.tenants, w.queues
"""

_POOLS = text(_LIVE_POOLS)

_POOLS_OF_TERM = text(f"""
    WITH {CURRENT_TERM}
    SELECT p.* FROM current_term LEFT JOIN ({_LIVE_POOLS}) p ON true
""")

# Reads the head of each served lane. The number of unserved jobs does not affect the cost.
_HEADS = text(f"""
    WITH RECURSIVE {LANES},
    served AS MATERIALIZED (
        SELECT l.*, count(*) OVER () AS lanes FROM lane l
        WHERE {tenant_may_start("l")} AND EXISTS (
            SELECT 1 FROM worker_handlers h JOIN workers w ON w.id = h.worker_id
            WHERE {SERVES_LANE} AND w.pool = ANY (CAST(:pools AS text[]))
        )
    ),
    sized AS MATERIALIZED (
        SELECT s.tenant, s.queue, s.type, coalesce(b.count, 0)
            + least(CAST(:limit AS bigint), 2 * CAST(:limit AS bigint) / s.lanes + 8) AS size
        FROM served s LEFT JOIN unnest(
            CAST(:tenants AS text[]), CAST(:queues AS text[]), CAST(:types AS text[]),
            CAST(:counts AS bigint[])
        ) AS b (tenant, queue, type, count) USING (tenant, queue, type)
    )
    SELECT s.tenant, s.queue, s.type, s.size, h.ids, h.attempts, h.ranks
    FROM sized s CROSS JOIN LATERAL (
        SELECT array_agg(r.id) AS ids, array_agg(r.attempt) AS attempts,
            array_agg(r.rank) AS ranks
        FROM (
            SELECT j.id, j.attempt + 1 AS attempt, j.rank FROM jobs j
            {lane_head_sql("s")} LIMIT s.size
        ) r
    ) h
""")

# The number of a tenant's newest jobs that are searched for queues.
_NEWEST_JOBS = 1000

# Each known queue once. `served` is NULL for a queue without waiting jobs.
_KNOWN_QUEUES = text(f"""
    WITH RECURSIVE {LANES}
    SELECT queue, bool_or(served) AS served FROM (
        SELECT l.queue, EXISTS (
            SELECT 1 FROM worker_handlers h JOIN workers w ON w.id = h.worker_id
            WHERE {SERVES_LANE}
        ) AS served
        FROM lane l WHERE l.tenant = :tenant
        UNION ALL SELECT unnest(w.queues), NULL FROM workers w
            WHERE {serves_tenant(":tenant")}
        UNION ALL SELECT h.queue, NULL FROM worker_handlers h
            JOIN workers w ON w.id = h.worker_id WHERE {serves_tenant(":tenant")}
        UNION ALL SELECT j.queue, NULL FROM (
            SELECT queue FROM jobs WHERE tenant = :tenant ORDER BY id DESC LIMIT :newest
        ) j
    ) named
    GROUP BY queue
""")

_SERVED_QUEUES = text(f"""
    SELECT DISTINCT w.queues FROM workers w
    WHERE {serves_tenant("CAST(:tenant AS text)")} AND {ACCEPTING_WORKER}
        AND EXISTS (SELECT 1 FROM worker_handlers h WHERE h.worker_id = w.id)
""")

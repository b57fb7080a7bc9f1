"""What the scheduler dispatches from: free workers, and the heads of the queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text

from headrace_core.domain.delivery import Delivery
from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.connection import Connection
from headrace_core.store.guards import TAKING_WORKER, keyed_guard, source_guard
from headrace_core.store.workers import serves_queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Live workers that run the same types from the same queues (none: all queues).

    `slots` counts all of theirs, `running` the jobs in them.
    """

    name: str
    tenant: str
    queues: frozenset[str]
    types: frozenset[str]
    workers: int
    slots: int
    running: int

    def serves(self, job: ReadyJob) -> bool:
        """Whether a job can run here."""
        return (
            job.tenant == self.tenant
            and job.type in self.types
            and serves_queue(self.queues, job.queue)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyJob:
    """A QUEUED job; the lower its rank, the earlier its turn."""

    id: JobId
    tenant: str
    queue: str
    type: str
    attempt: int
    rank: float

    @property
    def delivery(self) -> Delivery:
        """How it is delivered: for the attempt that would come next."""
        return Delivery(job_id=self.id, attempt=self.attempt + 1)


async def live_pools(conn: Connection) -> list[Pool]:
    """The pools that have live workers that don't drain."""
    rows = await conn.execute(_POOLS)
    return [
        Pool(
            name=row.pool,
            tenant=row.tenant,
            queues=frozenset(row.queues),
            types=frozenset(row.types),
            workers=row.workers,
            slots=row.slots,
            running=row.running,
        )
        for row in rows
    ]


async def ready_jobs(conn: Connection, *, pools: Sequence[str], limit: int) -> list[ReadyJob]:
    """Up to `limit` QUEUED jobs that a live worker of one of `pools` could run, in the order of
    their turn.
    """
    rows = await conn.execute(_READY, {"pools": list(pools), "limit": limit})
    return [
        ReadyJob(
            id=row.id,
            tenant=row.tenant,
            queue=row.queue,
            type=row.type,
            attempt=row.attempt,
            rank=row.rank,
        )
        for row in rows
    ]


async def still_waiting(conn: Connection, deliveries: Sequence[Delivery]) -> set[Delivery]:
    """Those of `deliveries` that nobody has claimed, and that could still be."""
    rows = await conn.execute(
        _WAITING,
        {
            "ids": [delivery.job_id for delivery in deliveries],
            "attempts": [delivery.attempt for delivery in deliveries],
        },
    )
    return {Delivery(job_id=row.id, attempt=row.attempt) for row in rows}


_POOLS = text(f"""
    SELECT w.pool, w.tenant, w.queues, count(*) AS workers, sum(w.slots) AS slots,
        sum((SELECT count(*) FROM jobs j
            WHERE j.worker_id = w.id AND j.state = 'running'))::integer AS running,
        ARRAY(SELECT h.type FROM worker_handlers h
            WHERE h.worker_id = (array_agg(w.id))[1]) AS types
    FROM workers w
    WHERE {TAKING_WORKER}
    GROUP BY w.pool, w.tenant, w.queues
""")

# Walks from lane to lane (tenant, queue, type) of the index on queued jobs, and reads the head of
# each lane that somebody serves: what nobody can run costs nothing, however much of it waits.
_READY = text(f"""
    WITH RECURSIVE lane AS (
        (SELECT tenant, queue, type FROM jobs j WHERE {source_guard(EventType.STARTED)}
            ORDER BY tenant, queue, type LIMIT 1)
        UNION ALL
        SELECT n.* FROM lane l CROSS JOIN LATERAL (
            SELECT j.tenant, j.queue, j.type FROM jobs j
            WHERE {source_guard(EventType.STARTED)}
                AND (j.tenant, j.queue, j.type) > (l.tenant, l.queue, l.type)
            ORDER BY j.tenant, j.queue, j.type LIMIT 1
        ) n
    )
    SELECT r.* FROM lane l CROSS JOIN LATERAL (
        SELECT j.id, j.tenant, j.queue, j.type, j.attempt, j.rank FROM jobs j
        WHERE {source_guard(EventType.STARTED)} AND j.tenant = l.tenant AND j.queue = l.queue
            AND j.type = l.type
        ORDER BY j.rank, j.id LIMIT :limit
    ) r
    WHERE EXISTS (
        SELECT 1 FROM worker_handlers h JOIN workers w ON w.id = h.worker_id
        WHERE h.tenant = l.tenant AND h.type = l.type AND {TAKING_WORKER}
            AND w.pool = ANY (CAST(:pools AS text[]))
            AND (w.queues = '{{}}' OR l.queue = ANY (w.queues))
    )
    ORDER BY r.rank, r.id LIMIT :limit
""")

_WAITING = text(f"""
    SELECT j.id, i.attempt
    FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS integer[])) AS i (id, attempt)
    JOIN jobs j ON j.id = i.id AND j.attempt = i.attempt - 1
    WHERE {keyed_guard(EventType.STARTED)}
""")

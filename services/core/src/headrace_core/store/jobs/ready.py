"""What the scheduler dispatches from: free workers, and the heads of the queues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey
from headrace_core.store.lanes import LANES, SERVES_LANE, head_of
from headrace_core.store.leadership import CURRENT_TERM, of_term
from headrace_core.store.sql.connection import Connection, Row
from headrace_core.store.sql.guards import TAKING_WORKER
from headrace_core.store.workers import serves_queue


class Lane(NamedTuple):
    """QUEUED jobs that the same workers can run."""

    tenant: str
    queue: str
    type: str


class ReadyJob(NamedTuple):
    """A QUEUED job as it would be delivered; the lower its rank, the earlier its turn.

    So the order of the tuples is the order of their turn.
    """

    rank: float
    delivery: AttemptKey
    lane: Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The next jobs of a lane, in the order of their turn; `whole` when there are no others."""

    lane: Lane
    ranks: Sequence[float]
    deliveries: Sequence[AttemptKey]
    whole: bool

    def __iter__(self) -> Iterator[ReadyJob]:
        for rank, delivery in zip(self.ranks, self.deliveries, strict=True):
            yield ReadyJob(rank, delivery, self.lane)


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

    def serves(self, lane: Lane) -> bool:
        """Whether its jobs can run here."""
        return (
            lane.tenant == self.tenant
            and lane.type in self.types
            and serves_queue(self.queues, lane.queue)
        )


async def live_pools(conn: Connection, *, term: int | None = None) -> list[Pool]:
    """The pools that have live workers that don't drain.

    Args:
        conn: where to read.
        term: that of the scheduler that asks, which is to deliver to them.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    if term is None:
        rows: Iterable[Row] = await conn.execute(_POOLS)
    else:
        led = of_term(term, await conn.execute(_POOLS_OF_TERM, {"term": term}))
        rows = (row for row in led if row.pool is not None)
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


async def ready_heads(
    conn: Connection, *, pools: Sequence[str], limit: int, behind: Mapping[Lane, int]
) -> list[Head]:
    """The heads of the lanes that a live worker of one of `pools` serves.

    Args:
        conn: where to read.
        pools: their names.
        limit: how many jobs are wanted in all. A single lane gives as many. Of several each gives
            about twice its share, since nobody knows before whose turn it is.
        behind: how many more each lane gives, for those at its head that are known already.
    """
    rows = await conn.execute(
        _HEADS,
        {
            "pools": list(pools),
            "limit": limit,
            "tenants": [lane.tenant for lane in behind],
            "queues": [lane.queue for lane in behind],
            "types": [lane.type for lane in behind],
            "counts": list(behind.values()),
        },
    )
    return [
        Head(
            lane=Lane(row.tenant, row.queue, row.type),
            ranks=row.ranks,
            deliveries=list(map(AttemptKey, row.ids, row.attempts)),
            whole=len(row.ids) < row.size,
        )
        for row in rows
        # Claimed since the lanes were found.
        if row.ids
    ]


async def ready_jobs(conn: Connection, *, pools: Sequence[str], limit: int) -> list[ReadyJob]:
    """Up to `limit` QUEUED jobs that a live worker of one of `pools` could run, in the order of
    their turn.
    """
    heads = await ready_heads(conn, pools=pools, limit=limit, behind={})
    jobs = sorted(job for head in heads for job in head)[:limit]
    # What stands behind the last known job of a lane may have to wait for others of that lane.
    known = [head.ranks[-1] for head in heads if not head.whole]
    return [job for job in jobs if job.rank <= min(known)] if known else jobs


_LIVE_POOLS = f"""
    SELECT w.pool, w.tenant, w.queues, count(*) AS workers, sum(w.slots) AS slots,
        sum((SELECT count(*) FROM jobs j
            WHERE j.worker_id = w.id AND j.state = 'running'))::integer AS running,
        ARRAY(SELECT h.type FROM worker_handlers h
            WHERE h.worker_id = (array_agg(w.id))[1]) AS types
    FROM workers w
    WHERE {TAKING_WORKER}
    GROUP BY w.pool, w.tenant, w.queues
"""

_POOLS = text(_LIVE_POOLS)

_POOLS_OF_TERM = text(f"""
    WITH {CURRENT_TERM}
    SELECT p.* FROM current_term LEFT JOIN ({_LIVE_POOLS}) p ON true
""")

# Reads the head of each lane that somebody serves: what nobody can run costs nothing, however much
# of it waits.
_HEADS = text(f"""
    WITH RECURSIVE {LANES},
    served AS MATERIALIZED (
        SELECT l.*, count(*) OVER () AS lanes FROM lane l
        WHERE EXISTS (
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
            {head_of("s")} LIMIT s.size
        ) r
    ) h
""")

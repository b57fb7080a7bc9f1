"""Reads the state of workers for people who watch them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import cast

from sqlalchemy import text

from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.job import UNREADABLE_TIME
from headrace_core.domain.monitor import MAX_LISTED_JOBS, RunningJob, WorkerStatus
from headrace_core.store.sql.connection import Connection, Row
from headrace_core.store.sql.documents import to_time
from headrace_core.store.sql.times import readable_time_sql
from headrace_core.store.workers import LIVE_WORKER, serves_tenant, to_tenants


async def list_workers(
    conn: Connection,
    *,
    tenant: str,
    queues: Collection[str] = (),
    types: Collection[str] = (),
    after: WorkerId | None,
    limit: int,
) -> Sequence[WorkerStatus]:
    """Return workers that serve a tenant, by id, with their running jobs of that tenant.

    Args:
        conn: a connection with a transaction.
        tenant: the tenant.
        queues: the visible queues; empty for all. Workers that serve none of them are left out.
        types: the visible job types; empty for all. Workers that run none of them are left out.
        after: the worker to start after; None for the first page.
        limit: the maximum number of workers.
    """
    visible = {"tenant": tenant, "queues": list(queues), "types": list(types)}
    rows = await conn.execute(_WORKERS, {**visible, "after": after, "limit": limit})
    ids = [row.id for row in rows]
    running: dict[WorkerId, list[RunningJob]] = defaultdict(list)
    busy: dict[WorkerId, int] = {}
    for row in await conn.execute(_RUNNING, {**visible, "ids": ids, "listed": MAX_LISTED_JOBS}):
        busy[row.worker_id] = row.busy
        running[row.worker_id].append(
            RunningJob(
                id=JobId(row.id),
                type=row.type,
                queue=row.queue,
                attempt=row.attempt,
                start_time=_read_time(row.start_time),
            )
        )
    return [_to_worker(row, busy.get(row.id, 0), running[row.id]) for row in rows]


def _read_time(time: datetime) -> datetime:
    try:
        return cast(datetime, to_time(time))
    except ValueError:
        return UNREADABLE_TIME


def _to_worker(row: Row, busy: int, running: Sequence[RunningJob]) -> WorkerStatus:
    return WorkerStatus(
        id=WorkerId(row.id),
        name=row.name,
        pool=row.pool,
        tenants=to_tenants(row),
        queues=frozenset(row.queues),
        types=row.types,
        slots=row.slots,
        busy_slots=busy,
        running_jobs=running,
        draining=row.draining,
        live=row.live,
        start_time=_read_time(row.start_time),
        heartbeat_time=_read_time(row.heartbeat_time),
        lease_expire_time=_read_time(row.lease_expire_time),
    )


# Names of types and queues that the caller may see; an empty array means all.
_VISIBLE_TYPE = "(CAST(:types AS text[]) = '{}' OR {row}.type = ANY (CAST(:types AS text[])))"
_VISIBLE_QUEUE = "(CAST(:queues AS text[]) = '{}' OR {row}.queue = ANY (CAST(:queues AS text[])))"

_WORKERS = text(f"""
    SELECT w.id, w.name, w.pool, w.tenant, w.tenants, w.slots, w.draining,
        {LIVE_WORKER} AS live, w.queues, t.types,
        {readable_time_sql("w.start_time")} AS start_time,
        {readable_time_sql("w.heartbeat_time")} AS heartbeat_time,
        {readable_time_sql("w.lease_expire_time")} AS lease_expire_time
    FROM workers w CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(h.type ORDER BY h.type), '{{}}') AS types
        FROM worker_handlers h
        WHERE h.worker_id = w.id AND {_VISIBLE_TYPE.replace("{row}", "h")}
    ) t
    WHERE {serves_tenant("CAST(:tenant AS text)")}
        AND (CAST(:after AS uuid) IS NULL OR w.id > CAST(:after AS uuid))
        AND (CAST(:types AS text[]) = '{{}}' OR t.types <> '{{}}')
        AND (CAST(:queues AS text[]) = '{{}}' OR w.queues = '{{}}'
            OR w.queues && CAST(:queues AS text[]))
    ORDER BY w.id LIMIT :limit
""")

_RUNNING = text(f"""
    SELECT * FROM (
        SELECT j.worker_id, j.id, j.type, j.queue, j.attempt,
            {readable_time_sql("j.start_time")} AS start_time,
            count(*) OVER w AS busy,
            row_number() OVER (PARTITION BY j.worker_id ORDER BY j.start_time, j.id) AS number
        FROM jobs j
        WHERE j.state = 'running' AND j.worker_id = ANY (CAST(:ids AS uuid[]))
            AND j.tenant = :tenant AND {_VISIBLE_TYPE.replace("{row}", "j")}
            AND {_VISIBLE_QUEUE.replace("{row}", "j")}
        WINDOW w AS (PARTITION BY j.worker_id)
    ) r
    WHERE number <= :listed
    ORDER BY worker_id, number
""")

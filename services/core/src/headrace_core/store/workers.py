"""Workers: their registrations, leases and handlers."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import text

from headrace_core.domain.handler import HandlerSpec, LiveHandler
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.pool import NewWorker
from headrace_core.store.leadership import CURRENT_TERM, check_term
from headrace_core.store.sql.connection import Connection, Row
from headrace_core.store.sql.documents import (
    DECODING_ERRORS,
    column,
    from_policy,
    to_interval,
    to_policy,
)
from headrace_core.store.sql.times import readable_interval_sql
from headrace_core.store.sql.unreadable import UNREADABLE_ROWS

LIVE_WORKER: Final = "w.lease_expire_time > clock_timestamp()"

# The first tenant of a worker that serves all tenants; no tenant can have this name.
_ALL_TENANTS: Final = "*"


def serves_tenant(tenant: str) -> str:
    """Return the condition that worker `w` serves a tenant, in SQL."""
    return f"({tenant} = w.tenant OR w.tenant = '{_ALL_TENANTS}' OR {tenant} = ANY (w.tenants))"


def to_tenants(row: Row) -> frozenset[str]:
    """Return the tenants of a worker; empty for all tenants."""
    if row.tenant == _ALL_TENANTS:
        return frozenset()
    return frozenset((row.tenant, *row.tenants))


# A live worker that is not draining accepts jobs.
ACCEPTING_WORKER: Final = f"NOT w.draining AND {LIVE_WORKER}"


def tenant_may_start(row: str) -> str:
    """Return the condition that jobs of the tenant of `row` may start.

    The statement reads the few inactive tenants once. A tenant without a row is active.
    """
    return f"{row}.tenant <> ALL (ARRAY(SELECT i.name FROM tenants i WHERE i.state <> 'active'))"


async def register_worker(conn: Connection, worker: NewWorker, *, lease: timedelta) -> None:
    """Add a worker with its handlers, and begin its lease."""
    first, *further = sorted(worker.tenants) or [_ALL_TENANTS]
    await conn.execute(
        _REGISTER,
        {
            "id": worker.id,
            "tenant": first,
            "tenants": further,
            "name": worker.name,
            "pool": worker.pool,
            "queues": list(worker.queues),
            "slots": worker.slots,
            "lease": lease,
        },
    )
    await conn.execute(
        _REGISTER_HANDLERS,
        {
            "worker_id": worker.id,
            "tenant": first,
            "types": column(worker.handlers, "type"),
            "queues": column(worker.handlers, "queue"),
            "descriptions": column(worker.handlers, "description"),
            "payload_schemas": column(worker.handlers, "payload_schema"),
            "result_schemas": column(worker.handlers, "result_schema"),
            "timeouts": column(worker.handlers, "timeout"),
            "retries": [from_policy(spec.retry) for spec in worker.handlers],
        },
    )


async def renew_lease(
    conn: Connection, *, worker_id: WorkerId, lease: timedelta, draining: bool
) -> bool:
    """Renew a worker's lease.

    Returns:
        False if the lease had lapsed or the worker was removed; the worker must then register
        with a new id.
    """
    result = await conn.execute(_RENEW, {"id": worker_id, "lease": lease, "draining": draining})
    return result.rowcount == 1


async def remove_worker(conn: Connection, *, worker_id: WorkerId) -> None:
    """Remove a worker that stops. The next recovery takes back the jobs that it still runs."""
    await conn.execute(_REMOVE, {"id": worker_id})


async def remove_lapsed(conn: Connection, *, term: int, older_than: timedelta) -> int:
    """Remove workers whose lease lapsed longer than `older_than` ago, and return their number.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    rows = await conn.execute(_REMOVE_LAPSED, {"term": term, "older_than": older_than})
    removed: int = check_term(term, rows)[0][0]
    return removed


async def live_handlers(conn: Connection, *, tenant: str) -> list[LiveHandler]:
    """Return the handlers of live workers, by type.

    If several workers have a handler for a type, the newest worker's handler is returned. An
    unreadable handler is left out, so it does not affect the others.
    """
    handlers = []
    for row in await conn.execute(_HANDLERS, {"tenant": tenant}):
        try:
            handlers.append(_to_handler(row))
        except DECODING_ERRORS:
            UNREADABLE_ROWS.record(f"handler {row.type} of tenant {tenant}", ["retry or timeout"])
    return handlers


def _to_handler(row: Row) -> LiveHandler:
    return LiveHandler(
        spec=HandlerSpec(
            type=row.type,
            queue=row.queue,
            description=row.description,
            payload_schema=row.payload_schema,
            result_schema=row.result_schema,
            timeout=to_interval(row.timeout),
            retry=to_policy(row.retry),
        ),
        live_workers=row.live_workers,
    )


_REGISTER = text("""
    INSERT INTO workers (
        id, tenant, tenants, name, pool, queues, slots, start_time, heartbeat_time,
        lease_expire_time
    )
    SELECT :id, :tenant, CAST(:tenants AS text[]), :name, :pool, CAST(:queues AS text[]), :slots,
        now, now, now + CAST(:lease AS interval)
    FROM (SELECT clock_timestamp() AS now) m
""")

_REGISTER_HANDLERS = text("""
    INSERT INTO worker_handlers (
        worker_id, tenant, type, queue, description, payload_schema, result_schema, timeout, retry
    )
    SELECT :worker_id, :tenant, type, queue, description, payload_schema::json,
        result_schema::json, timeout, retry::jsonb
    FROM unnest(
        CAST(:types AS text[]), CAST(:queues AS text[]), CAST(:descriptions AS text[]),
        CAST(:payload_schemas AS text[]), CAST(:result_schemas AS text[]),
        CAST(:timeouts AS interval[]), CAST(:retries AS text[])
    ) AS t (type, queue, description, payload_schema, result_schema, timeout, retry)
""")

_RENEW = text(f"""
    UPDATE workers w
    SET heartbeat_time = clock_timestamp(), draining = :draining,
        lease_expire_time = clock_timestamp() + CAST(:lease AS interval)
    WHERE id = :id AND {LIVE_WORKER}
""")

_REMOVE = text("DELETE FROM workers WHERE id = :id")

_REMOVE_LAPSED = text(f"""
    WITH {CURRENT_TERM},
    gone AS (
        DELETE FROM workers
        WHERE EXISTS (SELECT FROM current_term)
            AND lease_expire_time < clock_timestamp() - CAST(:older_than AS interval)
        RETURNING id
    )
    SELECT (SELECT count(*) FROM gone) FROM current_term
""")

_HANDLERS = text(f"""
    SELECT DISTINCT ON (h.type) h.type, h.queue, h.description,
        h.payload_schema::text AS payload_schema, h.result_schema::text AS result_schema,
        {readable_interval_sql("h.timeout")} AS timeout, h.retry::text AS retry,
        count(*) OVER (PARTITION BY h.type) AS live_workers
    FROM worker_handlers h JOIN workers w ON w.id = h.worker_id
    WHERE {serves_tenant("CAST(:tenant AS text)")} AND {LIVE_WORKER}
    ORDER BY h.type, w.start_time DESC, w.id
""")

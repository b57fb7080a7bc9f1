"""The removal of the rows of a tenant, in small transactions.

A tenant that is being deleted has the state DELETING, so calls are rejected and no attempt starts.
The scheduler repeats these steps until no row is left. The steps keep no state, so a new leader
continues where the previous one stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import text

from headrace_core.store.jobs.prune import MAX_EVENTS, REMOVE_CHOSEN, delete_empty_batches
from headrace_core.store.leadership import CURRENT_TERM, check_term
from headrace_core.store.sql.connection import Connection
from headrace_core.store.usage import lock_usage

# The tables whose rows are removed by tenant, once the jobs are removed. A test fails if a table
# with a tenant is missing both here and in KEPT_TABLES.
REMOVED_TABLES: Final = (
    *("batches", "subscriptions", "event_log", "tenant_usage", "job_minutes"),
    *("api_keys", "sessions", "users", "certificate_bindings"),
)
# The column that identifies a row among the rows of a tenant.
_KEYS: Final = {
    "batches": "id",
    "subscriptions": "name",
    "event_log": "tenant",
    "tenant_usage": "tenant",
    "job_minutes": "minute",
    "api_keys": "id",
    "sessions": "id",
    "users": "name",
    "certificate_bindings": "san",
}
# Rows that are removed with their jobs, or by their lease or age. The gateways need the changes of
# credentials to end streams.
KEPT_TABLES: Final = (
    *("jobs", "job_events", "job_logs", "workers", "worker_handlers", "access_changes"),
    *("audit_log", "audit_chains"),
)

_FIRST_ID: Final = UUID(int=0)


class DeletingTenant(NamedTuple):
    """A tenant that is being deleted.

    Attributes:
        name: the name.
        counted: whether its jobs were counted.
        age: the time since the request.
    """

    name: str
    counted: bool
    age: timedelta


class RemovedJobs(NamedTuple):
    """The result of one transaction: the number of removed jobs, and where to continue."""

    jobs: int
    last: UUID | None


async def deleting_tenants(conn: Connection) -> Sequence[DeletingTenant]:
    """Return the tenants that are being deleted, the oldest request first."""
    return [
        DeletingTenant(name=row.name, counted=row.counted, age=row.age)
        for row in await conn.execute(_DELETING)
    ]


async def count_tenant_jobs(conn: Connection, *, tenant: str) -> int:
    """Return the number of stored jobs of a tenant, in time proportional to it."""
    jobs: int = await conn.scalar(_COUNT, {"tenant": tenant})
    return jobs


async def note_jobs_to_remove(conn: Connection, *, tenant: str, jobs: int) -> None:
    """Store the number of jobs at the start of a deletion."""
    await conn.execute(_NOTE_COUNT, {"tenant": tenant, "jobs": jobs})


async def remove_tenant_jobs(
    conn: Connection,
    *,
    term: int,
    tenant: str,
    limit: int,
    after: UUID | None = None,
    include_running: bool = False,
    max_events: int = MAX_EVENTS,
) -> RemovedJobs:
    """Remove jobs of a tenant with their events, by id. Locked jobs are kept until a later call.

    Args:
        conn: a connection with a transaction.
        term: the term of the scheduler.
        tenant: the tenant.
        limit: the maximum number of jobs.
        after: the last id of the previous page, so that a page does not scan the dead index entries
            of earlier pages; None for the first page.
        include_running: True to remove RUNNING jobs. The store then rejects the writes of their
            attempts.
        max_events: the approximate number of events to remove. If a single job has more events,
            `remove_leftovers` removes the rest.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    await lock_usage(conn, tenant=tenant)
    rows = await conn.execute(
        _REMOVE,
        {
            "term": term,
            "tenant": tenant,
            "limit": limit,
            "after": _FIRST_ID if after is None else after,
            "include_running": include_running,
            "max_events": max_events,
        },
    )
    row = check_term(term, rows).one()
    if row.batches:
        await delete_empty_batches(conn, term=term, ids=row.batches)
    return RemovedJobs(row.jobs, row.last)


async def remove_tenant_rows(
    conn: Connection, *, term: int, tenant: str, table: str, limit: int
) -> int:
    """Remove up to `limit` rows of a tenant from one of REMOVED_TABLES; return their number.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    rows = await conn.execute(_REMOVE_ROWS[table], {"term": term, "tenant": tenant, "limit": limit})
    removed: int = check_term(term, rows)[0][0]
    return removed


async def finish_deletion(
    conn: Connection, *, term: int, tenant: str, settled_after: timedelta
) -> bool:
    """Remove the row of a tenant without jobs; return whether it was removed.

    Args:
        conn: a connection.
        term: the term of the scheduler.
        tenant: the tenant.
        settled_after: the time after the request when no gateway submits jobs of the tenant.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    rows = await conn.execute(
        _FINISH, {"term": term, "tenant": tenant, "settled_after": settled_after}
    )
    removed: int = check_term(term, rows)[0][0]
    return removed > 0


_DELETING = text("""
    SELECT name, deletion_jobs IS NOT NULL AS counted, clock_timestamp() - delete_time AS age
    FROM tenants WHERE state <> 'active' AND state = 'deleting' ORDER BY delete_time, name
""")

_COUNT = text("SELECT count(*) FROM jobs WHERE tenant = :tenant")

_NOTE_COUNT = text("""
    UPDATE tenants SET deletion_jobs = :jobs + removed_jobs
    WHERE name = :tenant AND deletion_jobs IS NULL
""")

_REMOVE = text(f"""
    WITH {CURRENT_TERM},
    found AS MATERIALIZED (
        SELECT j.id, j.seq FROM jobs j
        WHERE EXISTS (SELECT FROM current_term)
            AND j.tenant = :tenant AND j.id > :after
            AND (:include_running OR j.state <> 'running')
        ORDER BY j.tenant, j.id LIMIT :limit
    ),
    sized AS MATERIALIZED (
        SELECT id, seq, sum(seq) OVER (ORDER BY id) - seq AS events_before FROM found
    ),
    chosen AS MATERIALIZED (
        SELECT j.id, j.batch_id, s.seq, j.xid, coalesce(n.position, 0) AS position
        FROM sized s JOIN jobs j ON j.id = s.id
        LEFT JOIN job_events n ON n.job_id = s.id AND n.seq = s.seq
        WHERE s.events_before < :max_events AND j.seq = s.seq
        FOR UPDATE OF j SKIP LOCKED
    ),
    {REMOVE_CHOSEN},
    counted AS (
        UPDATE tenants SET removed_jobs = removed_jobs + (SELECT count(*) FROM chosen)
        WHERE name = :tenant AND EXISTS (SELECT FROM chosen)
    )
    SELECT r.* FROM current_term CROSS JOIN (
        SELECT count(*) AS jobs,
            array_agg(DISTINCT batch_id) FILTER (WHERE batch_id IS NOT NULL) AS batches,
            (array_agg(id ORDER BY id DESC))[1] AS last
        FROM chosen
    ) r
""")

# Batches without a request_id are removed with their last job; no index finds them by tenant.
_EXTRA_CONDITIONS: Final = {"batches": " AND request_id IS NOT NULL"}

_REMOVE_ROWS: Final = {
    table: text(f"""
        WITH {CURRENT_TERM},
        gone AS (
            DELETE FROM {table} WHERE tenant = :tenant AND {_KEYS[table]} = ANY (ARRAY(
                SELECT {_KEYS[table]} FROM {table}
                WHERE EXISTS (SELECT FROM current_term)
                    AND tenant = :tenant{_EXTRA_CONDITIONS.get(table, "")}
                LIMIT :limit
            ))
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM gone) FROM current_term
    """)
    for table in REMOVED_TABLES
}

_FINISH = text(f"""
    WITH {CURRENT_TERM},
    gone AS (
        DELETE FROM tenants
        WHERE EXISTS (SELECT FROM current_term)
            AND name = :tenant AND state = 'deleting'
            AND delete_time <= clock_timestamp() - CAST(:settled_after AS interval)
            AND NOT EXISTS (SELECT FROM jobs WHERE tenant = :tenant)
        RETURNING name
    )
    SELECT (SELECT count(*) FROM gone) FROM current_term
""")

"""The usage of tenants with a quota that the database counts.

Each submit of such a tenant locks the row of its usage until the commit, so submits through several
gateways cannot exceed a quota together. Other tenants have no row and pay nothing.

The row is locked before any row of jobs. Transactions that lock both therefore cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import text

from headrace_core.domain.errors import QuotaExceeded
from headrace_core.domain.tenant import Quota, Quotas, Usage
from headrace_core.store.leadership import CURRENT_TERM, check_term
from headrace_core.store.sql.connection import Connection, Row

# A count of up to this many waiting jobs takes a few milliseconds, so each submit at the limit may
# count. With a higher quota, submits count at most once in the interval.
_CHEAP_COUNT: Final = 10_000
_COUNT_INTERVAL: Final = timedelta(seconds=1)
# Seconds after which a rejected caller should retry.
_RETRY_AFTER: Final = 1.0
# Jobs whose payloads were counted once are counted again after this time, to correct mistakes.
_RECOUNT_INTERVAL: Final = timedelta(days=1)
# Wait after the start of a count before it is repeated, if it fails.
_RECOUNT_RETRY: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The result of `admit`.

    Attributes:
        jobs: the number of admitted jobs, from the first one.
        refusal: the quota that the next job exceeds; None if all jobs are admitted.
    """

    jobs: int
    refusal: QuotaExceeded | None


async def admit(
    conn: Connection, *, tenant: str, quotas: Quotas, payload_bytes: Sequence[int]
) -> Admission:
    """Return how many new jobs fit into the quotas of a tenant, and lock its usage.

    Call `note_submitted` in the same transaction after the jobs are stored.

    Args:
        conn: a connection with a transaction.
        tenant: the tenant.
        quotas: the quotas that apply.
        payload_bytes: the size of the payload of each job, in order. A requeued job stores no new
            payload.
    """
    row = (await conn.execute(_LOCK, {"tenant": tenant})).one_or_none()
    if row is None:
        # The quotas were removed a moment ago.
        return Admission(jobs=len(payload_bytes), refusal=None)
    used = {
        Quota.WAITING_JOBS: row.waiting_jobs,
        Quota.PAYLOAD_BYTES: max(0, row.payload_bytes),
        Quota.JOBS_PER_DAY: row.day_jobs,
    }
    waiting = quotas.get(Quota.WAITING_JOBS)
    if waiting is not None and used[Quota.WAITING_JOBS] + len(payload_bytes) > waiting:
        used[Quota.WAITING_JOBS] = await _recount_waiting(conn, tenant, row, waiting)
    return _fit(quotas, used, payload_bytes, left_today=row.left_today)


def _fit(
    quotas: Quotas, used: dict[Quota, int], payload_bytes: Sequence[int], *, left_today: timedelta
) -> Admission:
    total = 0
    for number, size in enumerate(payload_bytes):
        total += size
        needed = {
            Quota.WAITING_JOBS: number + 1,
            Quota.PAYLOAD_BYTES: total,
            Quota.JOBS_PER_DAY: number + 1,
        }
        for quota, more in needed.items():
            limit = quotas.get(quota)
            if limit is not None and used[quota] + more > limit:
                refusal = QuotaExceeded(
                    quota,
                    limit=limit,
                    used=used[quota],
                    retry_after=left_today.total_seconds()
                    if quota is Quota.JOBS_PER_DAY
                    else _RETRY_AFTER,
                )
                return Admission(jobs=number, refusal=refusal)
    return Admission(jobs=len(payload_bytes), refusal=None)


async def _recount_waiting(conn: Connection, tenant: str, row: Row, limit: int) -> int:
    """Count the waiting jobs, unless a count of many jobs is recent."""
    if limit > _CHEAP_COUNT and row.count_age is not None and row.count_age < _COUNT_INTERVAL:
        waiting: int = row.waiting_jobs
        return waiting
    # The lock is a separate statement, so this one sees all submits before it.
    return await _count_waiting(conn, tenant, write=True)


async def _count_waiting(conn: Connection, tenant: str, *, write: bool) -> int:
    waiting: int = await conn.scalar(_COUNT_WAITING, {"tenant": tenant})
    if write:
        await conn.execute(_NOTE_WAITING, {"tenant": tenant, "jobs": waiting})
    return waiting


async def note_submitted(
    conn: Connection, *, tenant: str, jobs: int, payload_bytes: int, requeued: bool = False
) -> None:
    """Add stored jobs to the usage, in the transaction of `admit`.

    Args:
        conn: a connection with a transaction.
        tenant: the tenant.
        jobs: the number of jobs that now wait.
        payload_bytes: the total size of their new payloads.
        requeued: True if the jobs were stored before; they do not count for the day.
    """
    await conn.execute(
        _NOTE_SUBMITTED,
        {
            "tenant": tenant,
            "jobs": jobs,
            "bytes": payload_bytes,
            "day_jobs": 0 if requeued else jobs,
        },
    )


async def lock_usage(conn: Connection, *, tenant: str) -> None:
    """Lock the usage of a tenant before its jobs are removed."""
    await conn.execute(_LOCK, {"tenant": tenant})


async def read_usage(conn: Connection, *, tenant: str) -> Usage:
    """Return the usage of a tenant."""
    row = (await conn.execute(_LOOK, {"tenant": tenant})).one_or_none()
    return Usage(
        waiting_jobs=await _count_waiting(conn, tenant, write=False),
        running_jobs=await conn.scalar(_COUNT_RUNNING, {"tenant": tenant}),
        payload_bytes=None if row is None else max(0, row.payload_bytes),
        jobs_today=None if row is None else row.day_jobs,
    )


async def metered_tenants(conn: Connection) -> Sequence[str]:
    """Return the tenants whose usage the database counts."""
    return await conn.scalars(_METERED)


async def take_recount(conn: Connection, *, term: int) -> str | None:
    """Return a tenant whose stored payloads must be counted; None if there is none.

    The count is due again after some minutes, unless `correct_payload_bytes` postpones it.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    rows = check_term(
        term, await conn.execute(_TAKE_RECOUNT, {"term": term, "retry": _RECOUNT_RETRY})
    )
    tenant: str | None = rows[0].tenant
    return tenant


async def count_payload_bytes(conn: Connection, *, tenant: str) -> int:
    """Return the difference between the stored payloads of a tenant and its usage, in bytes.

    Each submit changes both in one transaction, so one snapshot shows the whole mistake.

    Args:
        conn: a connection with a snapshot.
        tenant: the tenant.
    """
    difference: int | None = await conn.scalar(_COUNT_BYTES, {"tenant": tenant})
    return difference or 0


async def correct_payload_bytes(conn: Connection, *, tenant: str, difference: int) -> None:
    """Add a difference to the usage, and postpone the next count."""
    await conn.execute(
        _CORRECT_BYTES,
        {"tenant": tenant, "difference": difference, "wait": _RECOUNT_INTERVAL},
    )


_TODAY: Final = "CAST(clock_timestamp() AT TIME ZONE 'UTC' AS date)"

_USAGE: Final = f"""
    SELECT waiting_jobs, payload_bytes, clock_timestamp() - waiting_count_time AS count_age,
        CASE WHEN day = {_TODAY} THEN day_jobs ELSE 0 END AS day_jobs,
        CAST({_TODAY} + 1 AS timestamp) - (clock_timestamp() AT TIME ZONE 'UTC') AS left_today
    FROM tenant_usage WHERE tenant = :tenant
"""

_LOCK = text(f"{_USAGE} FOR UPDATE")

_LOOK = text(_USAGE)

_COUNT_WAITING = text("""
    SELECT (SELECT count(*) FROM jobs WHERE tenant = :tenant AND state = 'queued')
        + (SELECT count(*) FROM jobs
            WHERE tenant = :tenant AND state IN ('scheduled', 'retrying'))
""")

_COUNT_RUNNING = text("""
    SELECT count(*) FROM workers w
    JOIN jobs j ON j.worker_id = w.id AND j.state = 'running' AND j.tenant = :tenant
""")

_NOTE_WAITING = text("""
    UPDATE tenant_usage SET waiting_jobs = :jobs, waiting_count_time = clock_timestamp()
    WHERE tenant = :tenant
""")

_NOTE_SUBMITTED = text(f"""
    UPDATE tenant_usage
    SET waiting_jobs = waiting_jobs + :jobs, payload_bytes = payload_bytes + :bytes,
        day_jobs = CASE WHEN day = {_TODAY} THEN day_jobs ELSE 0 END + :day_jobs, day = {_TODAY}
    WHERE tenant = :tenant
""")

_METERED = text("SELECT tenant FROM tenant_usage ORDER BY tenant")

_TAKE_RECOUNT = text(f"""
    WITH {CURRENT_TERM},
    due AS MATERIALIZED (
        SELECT tenant FROM tenant_usage
        WHERE EXISTS (SELECT FROM current_term) AND recount_time <= clock_timestamp()
        ORDER BY recount_time LIMIT 1 FOR UPDATE SKIP LOCKED
    ),
    taken AS (
        UPDATE tenant_usage u SET recount_time = clock_timestamp() + CAST(:retry AS interval)
        FROM due WHERE u.tenant = due.tenant
    )
    SELECT (SELECT tenant FROM due) AS tenant FROM current_term
""")

_COUNT_BYTES = text("""
    SELECT payload_bytes_of_tenant(u.tenant) - u.payload_bytes
    FROM tenant_usage u WHERE u.tenant = :tenant
""")

_CORRECT_BYTES = text("""
    UPDATE tenant_usage
    SET payload_bytes = payload_bytes + :difference,
        recount_time = clock_timestamp() + CAST(:wait AS interval)
    WHERE tenant = :tenant
""")

# For a statement that removes the jobs of the CTE `chosen`: subtract their payloads from the usage.
# The sum is computed only if the tenant has a row.
RELEASE_PAYLOADS: Final = """released AS (
        UPDATE tenant_usage u
        SET payload_bytes
            = u.payload_bytes - payload_bytes_of_jobs(ARRAY(SELECT c.id FROM chosen c))
        WHERE u.tenant = :tenant
    )"""

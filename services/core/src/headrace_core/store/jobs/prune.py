"""Retention: the removal of jobs that ended long ago, with their events.

Pruning deletes events and moves the start of the log in one transaction. A reader can therefore
read a page of the log, then the start, and compare them to check that the page was complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text

from headrace_core.domain.lifecycle import JobState
from headrace_core.store.leadership import CURRENT_TERM, check_term
from headrace_core.store.sql.connection import Connection
from headrace_core.store.usage import RELEASE_PAYLOADS, lock_usage

# The approximate number of events that one transaction removes. The maximum is twice this number.
MAX_EVENTS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult:
    """The jobs that one transaction removed.

    Attributes:
        jobs: the number of pruned jobs.
        events: the number of their events.
        end_time: the time at which the last of these jobs ended; None if there are no jobs.
        unread: the number of pruned jobs with unacknowledged events, by subscription.
    """

    jobs: int
    events: int
    end_time: datetime | None
    unread: Mapping[str, int]


async def list_tenants(conn: Connection) -> Sequence[str]:
    """Return the tenants that have jobs."""
    return await conn.scalars(_TENANTS)


async def prune_jobs(
    conn: Connection,
    *,
    term: int,
    tenant: str,
    state: JobState,
    older_than: timedelta,
    held_for: timedelta,
    limit: int,
    since: datetime | None = None,
    max_events: int = MAX_EVENTS,
) -> PruneResult:
    """Remove jobs that ended in one state, with their events. The earliest end is first.

    A call prunes one state, so it does not scan jobs of states with a longer retention.

    A job is kept while a subscription of its tenant has not acknowledged all events of the job,
    including events that do not match the filter. It is also kept while a transaction is open that
    began before the job ended: the job's events have not settled, so streams may still have to
    send them. A locked job is kept until a later prune.

    Args:
        conn: a connection with a separate transaction.
        term: the term of the scheduler.
        tenant: the tenant of the jobs.
        state: a terminal state.
        older_than: the time since the end of a job after which it is removed.
        held_for: the time since the end of a job after which it is removed even if a subscription
            has not acknowledged its events.
        limit: the maximum number of jobs to check.
        since: the earliest end of a job. With it, a page does not scan the dead index entries of
            earlier pages of the same run.
        max_events: the approximate number of events to remove. If a single job has more events,
            `remove_leftovers` removes the rest.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    # Submits lock the usage before they wait for jobs, so the same order is needed here.
    await lock_usage(conn, tenant=tenant)
    row = check_term(
        term,
        await conn.execute(
            _PRUNE,
            {
                "term": term,
                "tenant": tenant,
                "state": state,
                "older_than": older_than,
                "held_for": held_for,
                "limit": limit,
                "since": since,
                "max_events": max_events,
            },
        ),
    ).one()
    if row.batches:
        # A separate statement has a new snapshot, which contains the deletions of the first
        # statement and of every prune that it waited for.
        await delete_empty_batches(conn, term=term, ids=row.batches)
    return PruneResult(
        jobs=row.jobs,
        events=row.events,
        end_time=row.end_time,
        unread=dict(zip(row.subscriptions or (), row.unread or (), strict=True)),
    )


async def delete_empty_batches(conn: Connection, *, term: int, ids: Sequence[UUID]) -> None:
    """Remove the batches among `ids` that have no jobs.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    check_term(term, await conn.execute(_DELETE_EMPTY_BATCHES, {"term": term, "ids": ids}))


async def remove_leftovers(conn: Connection, *, term: int, max_events: int = MAX_EVENTS) -> int:
    """Remove up to `max_events` events of a job that had too many for one transaction.

    Returns:
        The number of removed events; 0 if none were left.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    rows = await conn.execute(_LEFTOVERS, {"term": term, "max_events": max_events})
    removed: int = check_term(term, rows)[0][0]
    return removed


# Reads the newest job of each tenant in the index. The index entries of the oldest jobs may be
# dead.
_TENANTS = text("""
    WITH RECURSIVE found AS (
        (SELECT tenant FROM jobs ORDER BY tenant DESC, id DESC LIMIT 1)
        UNION ALL
        SELECT n.* FROM found f CROSS JOIN LATERAL (
            SELECT j.tenant FROM jobs j WHERE j.tenant < f.tenant
            ORDER BY j.tenant DESC, j.id DESC LIMIT 1
        ) n
    )
    SELECT tenant FROM found
""")

# Removes the jobs of the CTE `chosen` (id, seq, xid, position) of a tenant, with their events and
# logs.
REMOVE_CHOSEN: Final = f"""gone_jobs AS (
        DELETE FROM jobs j USING chosen c WHERE j.id = c.id
    ),
    gone_events AS (
        DELETE FROM job_events e USING chosen c WHERE e.job_id = c.id AND e.seq <= :max_events
    ),
    gone_logs AS (
        DELETE FROM job_logs l USING chosen c WHERE l.job_id = c.id
    ),
    leftover AS (
        INSERT INTO pruned_jobs (id, removed, seq)
        SELECT id, :max_events, seq FROM chosen WHERE seq > :max_events
    ),
    {RELEASE_PAYLOADS},
    moved AS (
        INSERT INTO event_log AS l (tenant, start_xid, start_position)
        SELECT :tenant, xid, position FROM chosen ORDER BY xid DESC, position DESC LIMIT 1
        ON CONFLICT (tenant) DO UPDATE
        SET start_xid = excluded.start_xid, start_position = excluded.start_position
        WHERE (l.start_xid, l.start_position) < (excluded.start_xid, excluded.start_position)
    )"""

# The statement can wait only for another prune of the same tenant, because only pruning locks the
# tenant's row of event_log. `prune_jobs` has locked the row of its usage.
# The snapshot contains all events to delete. `seq` increases with each event, so a job whose `seq`
# has not changed since the snapshot has no later events. The newest event of a job has the greatest
# place.
_PRUNE = text(f"""
    WITH {CURRENT_TERM},
    ended AS MATERIALIZED (
        SELECT j.id, j.seq, j.xid, j.end_time FROM jobs j
        WHERE EXISTS (SELECT FROM current_term)
            AND j.tenant = :tenant AND j.state = :state
            AND j.end_time >= coalesce(CAST(:since AS timestamptz), '-infinity')
            AND j.end_time <= statement_timestamp() - CAST(:older_than AS interval)
        ORDER BY j.end_time, j.id LIMIT :limit
    ),
    slowest AS MATERIALIZED (
        SELECT name, xid, position FROM subscriptions
        WHERE tenant = :tenant ORDER BY xid, position LIMIT 1
    ),
    free AS MATERIALIZED (
        SELECT e.id, e.seq, e.xid, n.position, e.end_time,
            sum(e.seq) OVER (ORDER BY e.end_time, e.id) - e.seq AS events_before
        FROM ended e
        JOIN job_events n ON n.job_id = e.id AND n.seq = e.seq
        LEFT JOIN slowest ON true
        WHERE e.xid < pg_snapshot_xmin(pg_current_snapshot())
            AND (
                slowest.xid IS NULL OR (slowest.xid, slowest.position) >= (e.xid, n.position)
                OR e.end_time <= statement_timestamp() - CAST(:held_for AS interval)
            )
    ),
    chosen AS MATERIALIZED (
        SELECT j.id, j.batch_id, f.seq, f.xid, f.position, f.end_time
        FROM free f JOIN jobs j ON j.id = f.id
        WHERE f.events_before < :max_events AND j.seq = f.seq
        -- A locked row is being requeued, so the job stays.
        FOR UPDATE OF j SKIP LOCKED
    ),
    {REMOVE_CHOSEN},
    unread AS MATERIALIZED (
        SELECT s.name, count(*) AS jobs FROM chosen c
        JOIN subscriptions s ON s.tenant = :tenant AND (s.xid, s.position) < (c.xid, c.position)
        GROUP BY s.name
    )
    SELECT r.* FROM current_term CROSS JOIN (
        SELECT count(*) AS jobs, coalesce(sum(least(seq, :max_events)), 0)::bigint AS events,
            max(end_time) AS end_time,
            array_agg(DISTINCT batch_id) FILTER (WHERE batch_id IS NOT NULL) AS batches,
            (SELECT array_agg(name ORDER BY name) FROM unread) AS subscriptions,
            (SELECT array_agg(jobs ORDER BY name) FROM unread) AS unread
        FROM chosen
    ) r
""")

_DELETE_EMPTY_BATCHES = text(f"""
    WITH {CURRENT_TERM},
    gone AS (
        DELETE FROM batches b
        WHERE EXISTS (SELECT FROM current_term) AND b.id = ANY (CAST(:ids AS uuid[]))
            AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.batch_id = b.id)
    )
    SELECT term FROM current_term
""")

_LEFTOVERS = text(f"""
    WITH {CURRENT_TERM},
    job AS MATERIALIZED (
        SELECT id, removed, seq FROM pruned_jobs WHERE EXISTS (SELECT FROM current_term)
        ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
    ),
    gone AS (
        DELETE FROM job_events e USING job
        WHERE e.job_id = job.id AND e.seq > job.removed AND e.seq <= job.removed + :max_events
    ),
    further AS (
        UPDATE pruned_jobs p SET removed = p.removed + :max_events FROM job
        WHERE p.id = job.id AND job.removed + :max_events < job.seq
    ),
    done AS (
        DELETE FROM pruned_jobs p USING job
        WHERE p.id = job.id AND job.removed + :max_events >= job.seq
    )
    SELECT coalesce((SELECT least(seq - removed, :max_events) FROM job), 0)::bigint
    FROM current_term
""")

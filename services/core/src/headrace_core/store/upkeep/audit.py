"""The search for rows that break an invariant, in the whole database. See `docs/operations.md`.

All pages are read in one snapshot. The audit takes only read locks. It reports ids, numbers,
sizes, states and column names. It does not read payloads, results or output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from headrace_core.domain.audit import ChainCheck
from headrace_core.domain.lifecycle import LIFECYCLE, TERMINAL, EventType, JobState
from headrace_core.store.access.audit import list_audit_chains, read_audit_chain
from headrace_core.store.sql.connection import Connection, Row
from headrace_core.store.sql.documents import MAX_PROGRESS_BYTES
from headrace_core.store.sql.tables import in_list
from headrace_core.store.upkeep.unreadable_rows import other_unreadable_rows, unreadable_rows

# The bounds of all ids.
FIRST_ID, _LAST_ID = UUID(int=0), UUID(int=2**128 - 1)

# The maximum number of breaches that one statement returns.
_MAX_BREACHES = 10_000


@dataclass(frozen=True, slots=True)
class Breach:
    """A row that breaks an invariant.

    Attributes:
        check: the name of the check that found it.
        subject: the kind and id of the row, such as `job 0199…`.
        text: a description.
    """

    check: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedPage:
    """The result of one page. `last` is the last id of the page; None for the last page."""

    breaches: Sequence[Breach]
    jobs: int = 0
    events: int = 0
    last: UUID | None


async def estimate_jobs(conn: Connection) -> int:
    """Return the planner's estimate of the job count."""
    count: int = await conn.scalar(_ESTIMATE)
    return count


async def audit_jobs(conn: Connection, *, after: UUID, limit: int) -> AuditedPage:
    """Compare a page of jobs with their events, and events with their jobs.

    Args:
        conn: a connection in a snapshot (`Database.snapshot`).
        after: the id before the page; `FIRST_ID` for the first page.
        limit: the maximum number of jobs of the page.
    """
    last: UUID | None = await conn.scalar(PAGE_OF_JOBS, {"after": after, "skip": limit - 1})
    bounds = {"after": after, "last": last or _LAST_ID, "most": _MAX_BREACHES}
    counted, *broken = await conn.execute(_HISTORIES, bounds)
    breaches = [
        Breach(check, f"job {row.job_id}", row[check])
        for row in broken
        for check in _HISTORY_CHECKS
        if row[check] is not None
    ]
    breaches += _breaches(await conn.execute(_REFERENCES, bounds))
    breaches += [
        Breach("unreadable", row.name, f"unreadable columns: {', '.join(row.fields)}")
        for row in await unreadable_rows(conn, after=after, last=last)
    ]
    return AuditedPage(breaches=breaches, jobs=counted.jobs, events=counted.events, last=last)


async def audit_batches(conn: Connection, *, after: UUID, limit: int) -> AuditedPage:
    """Compare a page of batches with their jobs. See `audit_jobs` for the arguments."""
    last: UUID | None = await conn.scalar(_PAGE_OF_BATCHES, {"after": after, "skip": limit - 1})
    rows = await conn.execute(_BATCHES, {"after": after, "last": last or _LAST_ID})
    return AuditedPage(breaches=_breaches(rows), last=last)


async def audit_small_tables(conn: Connection) -> Sequence[Breach]:
    """Check the small tables: leftovers, workers, the log's start, subscriptions."""
    rows: list[Row] = []
    for statement in (_LEFTOVERS, _HANDLERS, _LOG, _INSTALLATION):
        rows += await conn.execute(statement, {"most": _MAX_BREACHES})
    return [
        *_breaches(rows),
        *(
            Breach("unreadable", row.name, f"unreadable columns: {', '.join(row.fields)}")
            for row in await other_unreadable_rows(conn)
        ),
    ]


async def audit_chains(conn: Connection, *, limit: int) -> Sequence[Breach]:
    """Recompute the hashes of the audit logs of all tenants.

    Args:
        conn: a connection in a snapshot.
        limit: the maximum number of events of a statement.
    """
    breaches: list[Breach] = []
    for chain in await list_audit_chains(conn):
        check = ChainCheck(chain)
        problems: list[str] = []
        while events := await read_audit_chain(
            conn, tenant=chain.tenant, after=check.seq, limit=limit
        ):
            problems += check.check(events)
        problems += check.end()
        owner = f"tenant {chain.tenant}" if chain.tenant else "the installation"
        breaches += [Breach("audit", f"audit log of {owner}", problem) for problem in problems]
    orphans = await conn.scalars(_LOGS_WITHOUT_CHAIN, {"most": _MAX_BREACHES})
    breaches += [
        Breach("audit", f"audit log of tenant {tenant}", "its chain is missing")
        for tenant in orphans
    ]
    return breaches


def _breaches(rows: Sequence[Row]) -> list[Breach]:
    return [Breach(row.broken, row.subject, row.detail) for row in rows]


_ESTIMATE = text("""
    SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'jobs'::regclass
""")

PAGE_OF_JOBS = text("SELECT id FROM jobs WHERE id > :after ORDER BY id OFFSET :skip LIMIT 1")
_PAGE_OF_BATCHES = text("SELECT id FROM batches WHERE id > :after ORDER BY id OFFSET :skip LIMIT 1")

# Every transition of the lifecycle, as `state before>event>state`.
_TRANSITIONS = ", ".join(
    f"'{source}>{rule.event}>{target}'"
    for rule in LIFECYCLE
    for source in (rule.sources or ("",))
    for target in rule.targets
)
_TERMINAL = in_list(sorted(TERMINAL))
_WAITING_STATES = in_list((JobState.SCHEDULED, JobState.RETRYING))

_HISTORY_CHECKS = (
    *("missing", "orphan", "gap", "step", "attempt", "end", "row", "place", "tenant", "early"),
)

# One pass over the page's events in the order of their keys. Each event is compared with the
# previous event of the job. An event after a gap is reported only for the gap.
_HISTORIES = text(f"""
    WITH event AS (
        SELECT e.job_id, e.seq, e.tenant, e.type, e.state, e.attempt, e.time, e.xid, e.position,
            coalesce(lag(e.seq) OVER job, 0) = e.seq - 1 AS follows,
            coalesce(lag(e.state) OVER job, '') AS before,
            coalesce(lag(e.attempt) OVER job, 0) AS attempt_before,
            lag(e.xid) OVER job AS xid_before,
            lag(e.position) OVER job AS position_before,
            lag(e.due_time) OVER job AS due_before,
            lead(e.seq) OVER job IS NULL AS newest
        FROM job_events e
        WHERE e.job_id > :after AND e.job_id <= :last
        WINDOW job AS (PARTITION BY e.job_id ORDER BY e.seq)
    ),
    history AS (
        SELECT job_id, count(*) AS events, max(seq) AS seq,
            min(seq) FILTER (WHERE NOT follows) AS gap,
            min(format('event %s: %s leads from %s to %s', seq, type,
                coalesce(nullif(before, ''), 'nothing'), state)) FILTER (
                WHERE follows AND before || '>' || type || '>' || state NOT IN ({_TRANSITIONS})
            ) AS step,
            min(format('event %s: %s belongs to attempt %s, after attempt %s', seq, type, attempt,
                attempt_before)) FILTER (
                WHERE follows AND attempt <> attempt_before
                    + CASE WHEN type = '{EventType.STARTED}' THEN 1 ELSE 0 END
            ) AS attempt,
            min(seq) FILTER (
                WHERE (xid, position) <= (xid_before, position_before)
            ) AS place,
            min(format('event %s: %s is at %s, before the due time %s', seq, type, time,
                due_before)) FILTER (
                WHERE before IN ({_WAITING_STATES}) AND type = '{EventType.DUE}'
                    AND time < due_before
            ) AS early,
            count(*) FILTER (WHERE state IN ({_TERMINAL})) AS ends,
            count(*) FILTER (WHERE type = '{EventType.REQUEUED}') AS requeued,
            min(tenant) AS tenant, max(tenant) AS other_tenant,
            min(state) FILTER (WHERE newest) AS state,
            min(attempt) FILTER (WHERE newest) AS last_attempt,
            (array_agg(xid) FILTER (WHERE newest))[1] AS xid
        FROM event GROUP BY job_id
    ),
    job AS (
        SELECT id, tenant, state, attempt, seq, xid FROM jobs
        WHERE id > :after AND id <= :last
    ),
    pair AS MATERIALIZED (
        SELECT coalesce(j.id, h.job_id) AS job_id, h.events,
            j.id IS NOT NULL AS is_job,
            CASE WHEN h.job_id IS NULL
                THEN 'no events, but the row is at event ' || j.seq END AS missing,
            CASE WHEN j.id IS NULL
                THEN h.events || ' events up to number ' || h.seq || ', but no job' END AS orphan,
            CASE WHEN j.id IS NOT NULL AND h.gap IS NOT NULL
                THEN 'the event before event ' || h.gap || ' is missing' END AS gap,
            h.step, h.attempt,
            CASE WHEN h.gap IS NULL AND h.ends - h.requeued
                    <> CASE WHEN h.state IN ({_TERMINAL}) THEN 1 ELSE 0 END
                THEN h.ends || ' terminal events, requeued ' || h.requeued || ' times' END AS end,
            CASE WHEN j.id IS NOT NULL AND h.job_id IS NOT NULL
                    AND (j.state, j.seq, j.attempt) <> (h.state, h.seq, h.last_attempt)
                THEN format('the row has %s, event %s, attempt %s; the newest event %s, %s, %s',
                    j.state, j.seq, j.attempt, h.state, h.seq, h.last_attempt) END AS row,
            CASE WHEN h.place IS NOT NULL
                    THEN 'event ' || h.place || ' has a place before that of an earlier event'
                WHEN j.seq = h.seq AND j.xid <> h.xid
                    THEN 'the row and the newest event have different xids' END AS place,
            CASE WHEN h.tenant <> h.other_tenant OR h.tenant <> j.tenant
                THEN 'the row and the events belong to different tenants' END AS tenant,
            h.early
        FROM job j FULL JOIN history h ON h.job_id = j.id
    )
    -- The first row has only the counts.
    (SELECT NULL::uuid AS job_id, count(*) FILTER (WHERE is_job) AS jobs,
        coalesce(sum(events), 0)::bigint AS events,
        {", ".join(f'NULL::text AS "{check}"' for check in _HISTORY_CHECKS)}
    FROM pair)
    UNION ALL
    (SELECT p.job_id, 0, 0, {", ".join(f'p."{check}"' for check in _HISTORY_CHECKS)}
    FROM pair p
    WHERE num_nonnulls({", ".join(f'p."{check}"' for check in _HISTORY_CHECKS)}) > 0
        -- The leftover events of pruned jobs have their own check.
        AND (p.is_job OR NOT EXISTS (SELECT 1 FROM pruned_jobs u WHERE u.id = p.job_id))
    LIMIT :most)
""")

_REFERENCES = text(f"""
    (SELECT 'key' AS broken, 'job ' || j.id AS subject,
        'job ' || o.id || ' has the same idempotency key' AS detail
    FROM jobs j
    JOIN jobs o ON o.tenant = j.tenant AND o.request_id = j.request_id AND o.id > j.id
    WHERE j.id > :after AND j.id <= :last AND j.request_id IS NOT NULL
    LIMIT :most)
    UNION ALL
    (SELECT 'batch', 'job ' || j.id, 'batch ' || j.batch_id || ' is missing'
    FROM jobs j
    WHERE j.id > :after AND j.id <= :last AND j.batch_id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM batches b WHERE b.id = j.batch_id)
    LIMIT :most)
    UNION ALL
    (SELECT 'size', 'job ' || e.job_id, format('the progress of event %s has %s bytes', e.seq,
        octet_length(e.progress::text))
    FROM job_events e
    WHERE e.job_id > :after AND e.job_id <= :last
        AND octet_length(e.progress::text) > {MAX_PROGRESS_BYTES}
    LIMIT :most)
""")

# A batch is removed with its last job.
_BATCHES = text("""
    SELECT 'batch' AS broken, 'batch ' || b.id AS subject,
        CASE WHEN f.jobs = 0 THEN 'no jobs'
            ELSE f.jobs || ' jobs, but it was submitted with ' || b.jobs END AS detail
    FROM batches b
    CROSS JOIN LATERAL (SELECT count(*) AS jobs FROM jobs j WHERE j.batch_id = b.id) f
    WHERE b.id > :after AND b.id <= :last AND f.jobs NOT BETWEEN 1 AND b.jobs
""")

_LEFTOVERS = text("""
    SELECT 'leftover' AS broken, 'pruned job ' || p.id AS subject,
        CASE WHEN f.is_job THEN 'the job still exists'
            ELSE format('events %s to %s should be left, but %s are', p.removed + 1, p.seq,
                f.events) END AS detail
    FROM pruned_jobs p
    CROSS JOIN LATERAL (
        SELECT count(*) AS events, min(e.seq) AS first, max(e.seq) AS last,
            EXISTS (SELECT 1 FROM jobs j WHERE j.id = p.id) AS is_job
        FROM job_events e WHERE e.job_id = p.id
    ) f
    WHERE f.is_job OR (f.events, f.first, f.last)
        IS DISTINCT FROM (p.seq - p.removed::bigint, p.removed + 1, p.seq)
    LIMIT :most
""")

_HANDLERS = text("""
    SELECT 'handler' AS broken, 'worker ' || h.worker_id AS subject,
        'the worker of handler ' || h.type || ' is missing' AS detail
    FROM worker_handlers h
    WHERE NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = h.worker_id)
    LIMIT :most
""")

# Find places that another cluster assigned and this cluster has not reached. `migrate` corrects
# them.
_LOG = text("""
    WITH here AS (
        SELECT pg_snapshot_xmax(pg_current_snapshot()) AS xid,
            -- NULL for a role without a privilege on the sequence.
            CASE WHEN has_sequence_privilege(s.name, 'USAGE')
                OR has_sequence_privilege(s.name, 'SELECT')
                THEN coalesce(pg_sequence_last_value(s.name::regclass), 0) END AS position
        FROM (SELECT pg_get_serial_sequence('job_events', 'position') AS name) s
    ),
    place AS (
        (SELECT 'event of job ' || job_id AS subject, xid, position FROM job_events
            ORDER BY xid DESC, position DESC LIMIT 1)
        UNION ALL
        SELECT 'log of tenant ' || tenant, start_xid, start_position FROM event_log
        UNION ALL
        SELECT 'subscription ' || name || ' of tenant ' || tenant, xid, position
        FROM subscriptions
    )
    SELECT 'log' AS broken, p.subject,
        'the place is beyond all events of this cluster' AS detail
    FROM place p CROSS JOIN here h
    WHERE p.xid >= h.xid OR p.position > h.position
    LIMIT :most
""")

_INSTALLATION = text("""
    SELECT 'installation' AS broken, 'the database' AS subject,
        count(*) || ' identities instead of one' AS detail
    FROM installation HAVING count(*) <> 1
    LIMIT :most
""")

_LOGS_WITHOUT_CHAIN = text("""
    SELECT DISTINCT l.tenant FROM audit_log l
    WHERE NOT EXISTS (SELECT 1 FROM audit_chains c WHERE c.tenant = l.tenant)
    LIMIT :most
""")

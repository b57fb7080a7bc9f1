"""Reads the state of workers, queues and recent events, for people who watch them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, cast

from sqlalchemy import text

from headrace_core.domain.durations import BUCKETS_PER_DOUBLING, LAST_BUCKET
from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.job import UNREADABLE_TIME
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.monitor import MAX_LISTED_JOBS, RunningJob, WorkerStatus
from headrace_core.store.jobs.waiting import lane_head_sql
from headrace_core.store.sql.connection import Connection, Row
from headrace_core.store.sql.documents import to_time
from headrace_core.store.sql.times import readable_time_sql, readable_times_condition
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTransactions:
    """The transactions that a statement has seen: those below `next` that are not in `open`."""

    next: int
    open: frozenset[int]

    def __contains__(self, xid: object) -> bool:
        """Return whether the statement has seen a transaction."""
        return isinstance(xid, int) and xid < self.next and xid not in self.open


class LaneCount(NamedTuple):
    """The number of jobs with the same queue, type and state; of QUEUED jobs also the oldest."""

    queue: str
    type: str
    state: JobState
    jobs: int
    oldest_queue_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCounts:
    """A count of all jobs.

    Attributes:
        time: the time of the count.
        seen: the transactions whose jobs were counted.
        lanes: the counts.
    """

    time: datetime
    seen: SeenTransactions
    lanes: Sequence[LaneCount]


async def count_lanes(
    conn: Connection, *, tenant: str, queues: Collection[str] = (), types: Collection[str] = ()
) -> JobCounts:
    """Count the jobs of a tenant.

    Args:
        conn: a connection with a snapshot, because the statement can read millions of rows.
        tenant: the tenant.
        queues: the visible queues; empty for all.
        types: the visible job types; empty for all.
    """
    rows = await conn.execute(
        _COUNT_LANES, {"tenant": tenant, "queues": list(queues), "types": list(types)}
    )
    return JobCounts(
        time=rows[0].time,
        seen=_seen_transactions(rows[0].snapshot),
        lanes=[
            LaneCount(row.queue, row.type, JobState(row.state), row.jobs, row.oldest)
            for row in rows
            if row.queue is not None
        ],
    )


class LaneHead(NamedTuple):
    """The job of a lane that has waited for the longest time, among its next jobs."""

    queue: str
    type: str
    job_id: JobId
    queue_time: datetime


async def lane_heads(
    conn: Connection, *, tenant: str, lanes: Collection[tuple[str, str]]
) -> Sequence[LaneHead]:
    """Return the heads of lanes with QUEUED jobs. The number of waiting jobs costs nothing.

    Args:
        conn: a connection.
        tenant: the tenant.
        lanes: queues and types.
    """
    rows = await conn.execute(
        _LANE_HEADS,
        {
            "tenant": tenant,
            "queues": [queue for queue, _ in lanes],
            "types": [job_type for _, job_type in lanes],
            "next": _NEXT_JOBS,
        },
    )
    return [LaneHead(row.queue, row.type, JobId(row.id), row.queue_time) for row in rows]


class EventContext(NamedTuple):
    """The state of a job before an event.

    Attributes:
        state: the state before the event.
        time: the time at which the job entered that state, if it was QUEUED.
        wait: for the start of an attempt, the time since its job was queued, in seconds.
        run: for the end of an attempt, its duration, in seconds; None if it is not known.
    """

    state: JobState
    time: datetime
    wait: float | None
    run: float | None


async def event_contexts(
    conn: Connection, *, events: Collection[tuple[JobId, int]]
) -> Mapping[tuple[JobId, int], EventContext]:
    """Return the contexts of events by job id and number, without those of pruned jobs."""
    rows = await conn.execute(
        _EVENT_CONTEXTS,
        {"ids": [job_id for job_id, _ in events], "seqs": [seq for _, seq in events]},
    )
    return {
        (row.job_id, row.seq): EventContext(
            JobState(row.previous_state), row.previous_time, row.wait, row.run
        )
        for row in rows
    }


class RecentEvents(NamedTuple):
    """Recent events that are equal in all columns but their number.

    Attributes:
        second: their time, in whole seconds since 1970.
        type: their type.
        state: the state that they led to.
        job_type: the job type.
        error_type: the type of their error; None without an error.
        wait_bucket: the bucket of the wait (domain/durations.py); None if they are not starts.
        run_bucket: the bucket of the duration of the attempt; None if they are not ends.
        events: their number.
        last_time: the time of the newest event.
        last_job_id: the job of the newest event.
    """

    second: int
    type: EventType
    state: JobState
    job_type: str
    error_type: str | None
    wait_bucket: int | None
    run_bucket: int | None
    events: int
    last_time: datetime
    last_job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentHistory:
    """The recent events of a tenant.

    Attributes:
        since: all events after this time are included.
        seen: the transactions whose events are included.
        events: the events, grouped.
    """

    since: datetime
    seen: SeenTransactions
    events: Sequence[RecentEvents]


async def read_recent(
    conn: Connection,
    *,
    tenant: str,
    queues: Collection[str] = (),
    types: Collection[str] = (),
    period: timedelta,
    limit: int,
) -> RecentHistory:
    """Return the recent events of a tenant.

    Args:
        conn: a connection.
        tenant: the tenant.
        queues: the visible queues; empty for all.
        types: the visible job types; empty for all.
        period: the maximum age of an event.
        limit: the maximum number of events to read, over all tenants.
    """
    rows = await conn.execute(
        _RECENT,
        {
            "tenant": tenant,
            "queues": list(queues),
            "types": list(types),
            "period": period,
            "limit": limit,
        },
    )
    return RecentHistory(
        since=rows[0].since,
        seen=_seen_transactions(rows[0].snapshot),
        events=[
            RecentEvents(
                row.second,
                EventType(row.type),
                JobState(row.state),
                row.job_type,
                row.error_type,
                row.wait_bucket,
                row.run_bucket,
                row.events,
                row.last_time,
                JobId(row.last_job_id),
            )
            for row in rows
            if row.second is not None
        ],
    )


async def count_draining(conn: Connection, *, tenant: str, types: Collection[str] = ()) -> int:
    """Return the number of live workers that serve a tenant and drain."""
    draining: int = await conn.scalar(_DRAINING, {"tenant": tenant, "types": list(types)})
    return draining


def _seen_transactions(snapshot: str) -> SeenTransactions:
    # xmin:xmax:xip,xip,… (PostgreSQL's documentation, "Snapshot Components").
    _, unassigned, in_progress = snapshot.split(":")
    return SeenTransactions(
        next=int(unassigned),
        open=frozenset(int(xid) for xid in in_progress.split(",") if xid),
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

_VISIBLE_JOB = f"""{_VISIBLE_TYPE.replace("{row}", "j")}
        AND {_VISIBLE_QUEUE.replace("{row}", "j")}"""

_COUNT_LANES = text(f"""
    SELECT m.snapshot, m.time, c.* FROM (
        SELECT pg_current_snapshot()::text AS snapshot, clock_timestamp() AS time
    ) m LEFT JOIN (
        SELECT j.queue, j.type, j.state, count(*) AS jobs,
            min(j.queue_time) FILTER (
                WHERE j.state = 'queued' AND {readable_times_condition(["j.queue_time"])}
            ) AS oldest
        FROM jobs j WHERE j.tenant = :tenant AND {_VISIBLE_JOB}
        GROUP BY j.queue, j.type, j.state
    ) c ON true
""")

# The number of jobs of a lane, in the order of their start, among which the oldest is searched.
_NEXT_JOBS = 20

_LANE_HEADS = text(f"""
    SELECT l.queue, l.type, h.id, h.queue_time
    FROM (
        SELECT CAST(:tenant AS text) AS tenant, t.queue, t.type
        FROM unnest(CAST(:queues AS text[]), CAST(:types AS text[])) AS t (queue, type)
    ) l CROSS JOIN LATERAL (
        SELECT n.id, n.queue_time FROM (
            SELECT j.id, j.queue_time FROM jobs j {lane_head_sql("l")} LIMIT :next
        ) n WHERE {readable_times_condition(["n.queue_time"])} ORDER BY n.queue_time LIMIT 1
    ) h
""")

# The duration of a wait or of an attempt, in seconds, of an event `e` of the job `j` with the
# previous event `p`. A job leaves QUEUED with the event after the one with which it was queued.
WAIT_SECONDS = """CASE WHEN e.type = 'started'
        THEN extract(epoch FROM e.time - p.time)::double precision END"""
RUN_SECONDS = """CASE WHEN p.state = 'running' AND e.state <> 'running'
        THEN extract(epoch FROM e.time - CASE WHEN p.type = 'started' THEN p.time
            WHEN j.attempt = e.attempt THEN j.start_time END)::double precision END"""


def bucket_sql(seconds: str) -> str:
    """Return the bucket of a duration in seconds, as `bucket_of` does, in SQL."""
    # The constant limits keep the logarithm in range.
    scaled = f"{BUCKETS_PER_DOUBLING} / ln(2) * ln(least(greatest({seconds} * 1000, 1), 1e12))"
    bucket = f"least({LAST_BUCKET}, ceil(({scaled})::double precision))::integer"
    # `least` and `greatest` ignore NULL.
    return f"CASE WHEN {seconds} IS NOT NULL THEN {bucket} END"


_EVENT_CONTEXTS = text(f"""
    SELECT e.job_id, e.seq, p.state AS previous_state, p.time AS previous_time,
        {WAIT_SECONDS} AS wait, {RUN_SECONDS} AS run
    FROM unnest(CAST(:ids AS uuid[]), CAST(:seqs AS integer[])) AS x (job_id, seq)
    JOIN job_events e ON e.job_id = x.job_id AND e.seq = x.seq
    JOIN job_events p ON p.job_id = x.job_id AND p.seq = x.seq - 1
    JOIN jobs j ON j.id = x.job_id
""")

_RECENT = text(f"""
    WITH newest AS MATERIALIZED (
        SELECT * FROM job_events ORDER BY xid DESC, position DESC LIMIT :limit
    ),
    timed AS (
        SELECT e.job_id, e.type, e.state, e.time, j.type AS job_type,
            e.error->>'type' AS error_type,
            {WAIT_SECONDS} AS wait, {RUN_SECONDS} AS run
        FROM newest e JOIN jobs j ON j.id = e.job_id
        LEFT JOIN job_events p ON p.job_id = e.job_id AND p.seq = e.seq - 1
        WHERE j.tenant = :tenant AND {_VISIBLE_JOB}
            AND e.time > clock_timestamp() - CAST(:period AS interval)
            AND e.time < clock_timestamp() + interval '1 minute'
    )
    SELECT m.snapshot, m.since, t.* FROM (
        SELECT pg_current_snapshot()::text AS snapshot,
            CASE WHEN count(*) < :limit THEN clock_timestamp() - CAST(:period AS interval)
                ELSE greatest(max(n.time) FILTER (WHERE n.number = 1),
                    clock_timestamp() - CAST(:period AS interval)) END AS since
        FROM (
            SELECT time, row_number() OVER (ORDER BY xid, position) AS number FROM newest
        ) n
    ) m LEFT JOIN (
        SELECT floor(extract(epoch FROM time))::bigint AS second, type, state, job_type,
            error_type, {bucket_sql("wait")} AS wait_bucket, {bucket_sql("run")} AS run_bucket,
            count(*) AS events, max(time) AS last_time,
            (array_agg(job_id ORDER BY time DESC))[1] AS last_job_id
        FROM timed
        WHERE type NOT IN ('progressed', 'output', 'cancel_requested')
        GROUP BY 1, 2, 3, 4, 5, 6, 7
    ) t ON true
""")

_DRAINING = text(f"""
    SELECT count(*) FROM workers w
    WHERE w.draining AND {LIVE_WORKER} AND {serves_tenant("CAST(:tenant AS text)")}
        AND (CAST(:types AS text[]) = '{{}}' OR EXISTS (
            SELECT FROM worker_handlers h
            WHERE h.worker_id = w.id AND h.type = ANY (CAST(:types AS text[]))
        ))
""")

"""submitted: – → QUEUED or SCHEDULED."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import text

from headrace_core.domain.errors import RequestIdConflict
from headrace_core.domain.ids import BatchId, JobId, uuid7
from headrace_core.domain.job import PRIORITY_POINT, Job, JobSpec
from headrace_core.domain.lifecycle import JobState
from headrace_core.store.connection import Connection, Row
from headrace_core.store.rows import from_overrides, job_columns, to_job

# The rank of a job that is due at `due` (see tables.jobs.rank).
RANK = (
    "(extract(epoch FROM {due}) * 1000 - "
    f"{{priority}} * {PRIORITY_POINT.total_seconds() * 1000:.0f})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to persist.

    `spec.queue` is decided; `fingerprint` was taken before that, since it must not depend on which
    workers are alive. It is needed with a `request_id` alone.
    """

    id: JobId
    tenant: str
    spec: JobSpec
    request_id: str | None = None
    fingerprint: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job that is in the database, in the BASIC view; `created` by this call or by an earlier."""

    job: Job
    created: bool


async def submit_jobs(
    conn: Connection, jobs: Sequence[NewJob]
) -> list[Submitted | RequestIdConflict]:
    """Persists jobs with their first events, in one statement.

    Returns:
        One result per job, in the order given: the job (an earlier one, when its request_id was
        used for the same content), or the conflict.
    """
    created: dict[JobId, Row] = {}
    earlier: dict[tuple[str, str], tuple[Job, bytes]] = {}
    new = jobs
    while new:
        created |= await _insert(conn, new, batch_id=None)
        missing = [job for job in jobs if job.id not in created]
        earlier = await _by_request_id(conn, missing) if missing else {}
        # A job that was in the way may have been pruned between the two statements.
        new = [job for job in missing if (job.tenant, job.request_id) not in earlier]
    results: list[Submitted | RequestIdConflict] = []
    for job in jobs:
        row = created.get(job.id)
        if row is not None:
            results.append(Submitted(job=_job(job, row, batch_id=None), created=True))
            continue
        assert job.request_id is not None
        other, fingerprint = earlier[job.tenant, job.request_id]
        if fingerprint == job.fingerprint:
            results.append(Submitted(job=other, created=False))
        else:
            results.append(RequestIdConflict(job.request_id, kind="job", existing_id=str(other.id)))
    return results


async def submit_batch(
    conn: Connection,
    *,
    batch_id: BatchId,
    tenant: str,
    request_id: str | None,
    fingerprint: bytes,
    specs: Sequence[JobSpec],
) -> tuple[BatchId, list[Job], bool]:
    """Persists a batch, all or nothing.

    Returns:
        The batch's id, its jobs in the order given (BASIC), and whether this call created them
        rather than an earlier one with the same request_id and content.

    Raises:
        RequestIdConflict: the request_id was used for another batch.
    """
    new_batch = {
        "id": batch_id,
        "tenant": tenant,
        "request_id": request_id,
        "fingerprint": fingerprint,
        "jobs": len(specs),
    }
    row = None
    while row is None and (await conn.execute(_INSERT_BATCH, new_batch)).rowcount == 0:
        # There is none when it was pruned between the two statements.
        earlier = await conn.execute(_BATCH, {"tenant": tenant, "request_id": request_id})
        row = earlier.one_or_none()
    if row is not None:
        assert request_id is not None
        if bytes(row["fingerprint"]) != fingerprint:
            raise RequestIdConflict(request_id, kind="batch", existing_id=str(row["id"]))
        rows = await conn.execute(_BATCH_JOBS, {"batch_id": row["id"]})
        return BatchId(row["id"]), [to_job(job) for job in rows], False
    # Ids grow, so that the order of the ids is the order of the request.
    new = [NewJob(id=JobId(uuid7()), tenant=tenant, spec=spec) for spec in specs]
    created = await _insert(conn, new, batch_id=batch_id)
    return batch_id, [_job(job, created[job.id], batch_id=batch_id) for job in new], True


async def _insert(
    conn: Connection, jobs: Sequence[NewJob], *, batch_id: BatchId | None
) -> dict[JobId, Row]:
    specs = [job.spec for job in jobs]
    rows = await conn.execute(
        _INSERT,
        {
            "batch_id": batch_id,
            "ids": [job.id for job in jobs],
            "tenants": [job.tenant for job in jobs],
            "request_ids": [job.request_id for job in jobs],
            "fingerprints": [job.fingerprint for job in jobs],
            "types": [spec.type for spec in specs],
            "queues": [spec.queue for spec in specs],
            "payloads": [spec.payload for spec in specs],
            "priorities": [spec.priority for spec in specs],
            "labels": [
                msgspec.json.encode(spec.labels).decode() if spec.labels else "{}" for spec in specs
            ],
            "schedule_times": [spec.schedule_time for spec in specs],
            "timeouts": [spec.timeout for spec in specs],
            "deadlines": [spec.deadline for spec in specs],
            "retries": [from_overrides(spec.retry) for spec in specs],
        },
    )
    return {row["id"]: row for row in rows}


async def _by_request_id(
    conn: Connection, jobs: Sequence[NewJob]
) -> dict[tuple[str, str], tuple[Job, bytes]]:
    """The jobs that hold the keys of `jobs`, with their fingerprints."""
    rows = await conn.execute(
        _BY_REQUEST_ID,
        {
            "tenants": [job.tenant for job in jobs],
            "request_ids": [job.request_id for job in jobs],
        },
    )
    return {
        (row["tenant"], row["request_id"]): (to_job(row), bytes(row["fingerprint"])) for row in rows
    }


def _job(new: NewJob, row: Row, *, batch_id: BatchId | None) -> Job:
    """The job as it was inserted, put together here to spare a second reading."""
    spec = new.spec
    return Job(
        id=new.id,
        tenant=new.tenant,
        type=spec.type,
        queue=spec.queue,
        payload=None,
        priority=spec.priority,
        labels=spec.labels,
        timeout=spec.timeout,
        deadline=spec.deadline,
        retry=spec.retry,
        request_id=new.request_id,
        batch_id=batch_id,
        state=JobState(row["state"]),
        attempt=0,
        retries_used=0,
        seq=1,
        progress=None,
        result=None,
        error=None,
        worker_id=None,
        create_time=row["create_time"],
        due_time=row["due_time"],
        queue_time=row["queue_time"],
        start_time=None,
        cancel_request_time=None,
        end_time=None,
        update_time=row["create_time"],
    )


_INSERT = text(f"""
    WITH moment AS (SELECT clock_timestamp() AS now),
    input AS (
        SELECT *, greatest(schedule_time, now) AS due,
            schedule_time IS NOT NULL AND schedule_time > now AS later
        FROM moment, unnest(
            CAST(:ids AS uuid[]), CAST(:tenants AS text[]), CAST(:request_ids AS text[]),
            CAST(:fingerprints AS bytea[]), CAST(:types AS text[]), CAST(:queues AS text[]),
            CAST(:payloads AS text[]), CAST(:priorities AS smallint[]), CAST(:labels AS text[]),
            CAST(:schedule_times AS timestamptz[]), CAST(:timeouts AS interval[]),
            CAST(:deadlines AS timestamptz[]), CAST(:retries AS text[])
        ) AS t (
            id, tenant, request_id, fingerprint, type, queue, payload, priority, labels,
            schedule_time, timeout, deadline, retry
        )
    ),
    created AS (
        INSERT INTO jobs (
            id, tenant, type, queue, payload, priority, labels, timeout, deadline, retry,
            request_id, fingerprint, batch_id, state, rank, create_time, due_time, queue_time,
            update_time
        )
        SELECT id, tenant, type, queue, payload::json, priority, labels::jsonb, timeout, deadline,
            retry::jsonb, request_id, fingerprint, CAST(:batch_id AS uuid),
            CASE WHEN later THEN 'scheduled' ELSE 'queued' END,
            {RANK.format(due="due", priority="priority")}, now, due,
            CASE WHEN later THEN NULL ELSE now END, now
        FROM input
        -- One order for everybody, so that two calls with the same keys never lock crosswise.
        ORDER BY tenant, request_id
        ON CONFLICT (tenant, request_id) WHERE request_id IS NOT NULL DO NOTHING
        RETURNING id, xid, tenant, state, create_time, due_time, queue_time
    ),
    event AS (
        INSERT INTO job_events (job_id, seq, xid, tenant, type, state, attempt, time, due_time)
        SELECT id, 1, xid, tenant, 'submitted', state, 0, create_time,
            CASE WHEN state = 'scheduled' THEN due_time END
        FROM created
        ORDER BY id
    )
    SELECT id, state, create_time, due_time, queue_time FROM created
""")

_BY_REQUEST_ID = text(f"""
    SELECT {job_columns(full=False, table="j")}, j.fingerprint
    FROM jobs j
    JOIN unnest(CAST(:tenants AS text[]), CAST(:request_ids AS text[])) AS k (tenant, request_id)
        ON j.tenant = k.tenant AND j.request_id = k.request_id
""")

_INSERT_BATCH = text("""
    INSERT INTO batches (id, tenant, request_id, fingerprint, jobs)
    VALUES (:id, :tenant, :request_id, :fingerprint, :jobs)
    ON CONFLICT (tenant, request_id) WHERE request_id IS NOT NULL DO NOTHING
""")

_BATCH = text("""
    SELECT id, fingerprint FROM batches WHERE tenant = :tenant AND request_id = :request_id
""")

_BATCH_JOBS = text(f"""
    SELECT {job_columns(full=False)} FROM jobs WHERE batch_id = :batch_id ORDER BY id
""")

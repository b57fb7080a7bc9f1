"""submitted: – → QUEUED or SCHEDULED, for a batch: all or nothing, in one statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import text

from headrace_core.domain.errors import RequestIdConflict
from headrace_core.domain.ids import BatchId, JobId
from headrace_core.domain.job import Job, JobSpec, JsonText
from headrace_core.store.jobs.new_jobs import (
    DUE,
    GIVEN,
    JOB,
    QUEUE_TIME,
    SPEC,
    STATE,
    created_job,
    new_ids,
    spec_arrays,
    spec_values,
    to_start,
    unnested,
)
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.rows import job_columns, to_job
from headrace_core.store.sql.transition import Creation


class BatchJobs(Sequence[Job]):
    """The jobs of a batch, BASIC, in the order of the batch.

    Args:
        ids: of each job.
        alike: each job but for its id. Jobs that have all else in common share one object, so that
            whoever reads a thousand of them reads it once.
    """

    __slots__ = ("alike", "ids")

    def __init__(self, ids: Sequence[JobId], alike: Sequence[Job]) -> None:
        self.ids = ids
        self.alike = alike

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Job]:
        return map(_with_id, self.alike, self.ids)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return BatchJobs(self.ids[index], self.alike[index])
        return _with_id(self.alike[index], self.ids[index])


def _with_id(job: Job, job_id: JobId) -> Job:
    return job if job.id == job_id else replace(job, id=job_id)


class SubmittedBatch(NamedTuple):
    """A batch that is in the database; `created` by this call or by an earlier one."""

    id: BatchId
    jobs: BatchJobs
    created: bool


async def submit_batch(
    conn: Connection,
    *,
    batch_id: BatchId,
    tenant: str,
    request_id: str | None,
    fingerprint: bytes,
    former_fingerprint: Callable[[], bytes] | None = None,
    specs: Sequence[JobSpec],
    payloads: Sequence[JsonText] | None = None,
    correlation_id: str | None = None,
) -> SubmittedBatch:
    """Persists a batch, all or nothing, in one statement.

    Args:
        conn: needs no transaction.
        batch_id: of the new batch.
        tenant: whose it is.
        request_id: its idempotency key.
        fingerprint: of its content; it means nothing without a request_id.
        former_fingerprint: returns it in the form of older versions.
        specs: its jobs. Those that differ in their payloads alone are best given as one object.
        payloads: one for each spec, in place of its own.
        correlation_id: the x-request-id of the call, for all jobs.

    Raises:
        RequestIdConflict: the request_id was used for another batch.
    """
    payloads = payloads or [spec.payload for spec in specs]
    # Ids grow, so that the order of the ids is the order of the request.
    ids = new_ids(len(specs))
    new_batch: dict[str, Any] = {
        "batch_id": batch_id,
        "tenant": tenant,
        "request_id": request_id,
        "fingerprint": fingerprint,
        "correlation_id": correlation_id,
        "jobs": len(specs),
        "id": ids,
        "payload": payloads,
    }
    if all(spec is specs[0] for spec in specs):
        insert = _INSERT_ALIKE
        new_batch |= zip(SPEC, spec_values(specs[0]), strict=True)
    else:
        insert = _INSERT_BATCH
        new_batch |= spec_arrays(specs)
    while not (rows := await conn.execute(insert.statement, new_batch)):
        assert request_id is not None
        earlier = await find_batch(
            conn,
            tenant=tenant,
            request_id=request_id,
            fingerprint=fingerprint,
            former_fingerprint=former_fingerprint,
        )
        if earlier is not None:
            return earlier
        # The batch was pruned between the two statements.
    starts = {row["schedule_time"]: to_start(row) for row in rows}
    alike: dict[int, Job] = {}
    for spec, job_id in zip(specs, ids, strict=True):
        if id(spec) not in alike:
            start = starts[spec.schedule_time]
            alike[id(spec)] = created_job(
                job_id,
                spec,
                start,
                tenant=tenant,
                batch_id=batch_id,
                correlation_id=correlation_id,
            )
    return SubmittedBatch(batch_id, BatchJobs(ids, [alike[id(spec)] for spec in specs]), True)


async def find_batch(
    conn: Connection,
    *,
    tenant: str,
    request_id: str,
    fingerprint: bytes,
    former_fingerprint: Callable[[], bytes] | None = None,
) -> SubmittedBatch | None:
    """The batch that has a request_id; None when there is none, or when its jobs are pruned.

    Raises:
        RequestIdConflict: the request_id was used for another batch.
    """
    earlier = await conn.execute(_BATCH, {"tenant": tenant, "request_id": request_id})
    row = earlier.one_or_none()
    if row is None:
        return None
    stored = bytes(row["fingerprint"])
    same = stored == fingerprint
    if not same and former_fingerprint is not None:
        same = stored == former_fingerprint()
    if not same:
        raise RequestIdConflict(request_id, kind="batch", existing_id=str(row["id"]))
    jobs = [to_job(job) for job in await conn.execute(_BATCH_JOBS, {"batch_id": row["id"]})]
    if not jobs:
        return None
    return SubmittedBatch(BatchId(row["id"]), BatchJobs([job.id for job in jobs], jobs), False)


def _insert_batch(rows: str) -> Creation:
    """Return the statement that inserts nothing if a batch has the same request_id."""
    return Creation(
        before=[
            """batch AS (
                INSERT INTO batches (id, tenant, request_id, fingerprint, jobs)
                VALUES (:batch_id, :tenant, :request_id, :fingerprint, :jobs)
                ON CONFLICT (tenant, request_id) WHERE request_id IS NOT NULL DO NOTHING
                RETURNING id AS batch_id, tenant, clock_timestamp() AS now,
                    pg_current_xact_id() AS xid
            )""",
            f"input AS (SELECT *, {DUE} FROM batch, {rows})",
        ],
        values={
            "tenant": "tenant",
            "batch_id": "batch_id",
            "xid": "xid",
            "correlation_id": "CAST(:correlation_id AS text)",
            **GIVEN,
        },
        first="input",
        state=STATE,
        time="e.now",
        event={"due_time": "CASE WHEN e.later THEN e.due END"},
        # The start of a job depends on its schedule_time alone.
        result=f"""
            SELECT DISTINCT schedule_time, {STATE} AS state, now AS create_time, due AS due_time,
                {QUEUE_TIME} AS queue_time
            FROM input
        """,
    )


_INSERT_BATCH = _insert_batch(unnested(JOB | SPEC))
_ALIKE = ", ".join(f"CAST(:{name} AS {kind}) AS {name}" for name, kind in SPEC.items())
# Most batches are jobs of one kind, so its columns are sent once.
_INSERT_ALIKE = _insert_batch(f"{unnested(JOB)}, (SELECT {_ALIKE}) AS spec")

_BATCH = text("""
    SELECT id, fingerprint FROM batches WHERE tenant = :tenant AND request_id = :request_id
""")

_BATCH_JOBS = text(f"""
    SELECT {job_columns(full=False)} FROM jobs WHERE batch_id = :batch_id ORDER BY id
""")

"""The `submitted` transition, for all jobs of a batch in one statement."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from headrace_core.domain.errors import RequestIdConflict
from headrace_core.domain.ids import BatchId
from headrace_core.domain.job import Job, JobSpec
from headrace_core.domain.submission import BatchJobs, NewBatch, Repeated, SubmittedBatch
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.rows import (
    COMMON_VALUES,
    DUE_COLUMNS,
    INITIAL_STATE,
    PER_JOB,
    QUEUE_TIME,
    SPEC_TYPES,
    created_job,
    job_columns,
    new_ids,
    spec_arrays,
    spec_values,
    to_initial_values,
    to_job,
    unnest_sql,
)
from headrace_core.store.sql.transition import Creation


async def submit_batch(conn: Connection, batch: NewBatch) -> SubmittedBatch:
    """Store a whole batch in one statement.

    Args:
        conn: a connection, with or without a transaction.
        batch: the batch to store.

    Returns:
        The batch, or an earlier batch with the same request_id and content.

    Raises:
        RequestIdConflict: the request_id was used for a different batch.
    """
    # Ids increase, so their order is the order of the request.
    ids = new_ids(len(batch.specs))
    new_batch: dict[str, Any] = {
        "batch_id": batch.id,
        "tenant": batch.tenant,
        "request_id": batch.request_id,
        "fingerprint": batch.fingerprint,
        "correlation_id": batch.correlation_id,
        "submitted_by": batch.submitted_by,
        "trace_context": None if batch.trace_context is None else str(batch.trace_context),
        "jobs": len(ids),
        "id": ids,
        "payload": batch.payloads,
    }
    rows = batch.specs.map(spec_values)
    if len(rows.distinct) == 1:
        insert = _INSERT_UNIFORM
        new_batch |= zip(SPEC_TYPES, rows.distinct[0], strict=True)
    else:
        insert = _INSERT_BATCH
        new_batch |= spec_arrays(rows)
    while not (created := await conn.execute(insert.statement, new_batch)):
        earlier = await find_batch(conn, batch)
        if earlier is not None:
            return earlier
        # The earlier batch was pruned between the two statements.
    starts = {row["schedule_time"]: to_initial_values(row) for row in created}

    def to_created(spec: JobSpec) -> Job:
        return created_job(
            ids[0],
            spec,
            starts[spec.schedule_time],
            tenant=batch.tenant,
            batch_id=batch.id,
            correlation_id=batch.correlation_id,
            submitted_by=batch.submitted_by,
            trace_context=batch.trace_context,
        )

    return SubmittedBatch(batch.id, BatchJobs(ids, batch.specs.map(to_created)), True)


async def find_batch(conn: Connection, batch: NewBatch) -> SubmittedBatch | None:
    """Return the stored batch with the request_id of `batch`.

    Returns:
        The batch; None if the batch does not exist or its jobs were pruned.

    Raises:
        RequestIdConflict: the request_id was used for a different batch.
    """
    assert batch.request_id is not None
    key = {"tenant": batch.tenant, "request_id": batch.request_id}
    row = (await conn.execute(_BATCH, key)).one_or_none()
    if row is None:
        return None
    if not batch.matches(bytes(row["fingerprint"])):
        raise RequestIdConflict(batch.request_id, kind="batch", existing_id=str(row["id"]))
    jobs = [to_job(job) for job in await conn.execute(_BATCH_JOBS, {"batch_id": row["id"]})]
    if not jobs:
        return None
    templates = Repeated(jobs, range(len(jobs)))
    return SubmittedBatch(BatchId(row["id"]), BatchJobs([job.id for job in jobs], templates), False)


def _insert_batch(rows: str) -> Creation:
    """Return the INSERT of a batch; it inserts nothing if the request_id already exists."""
    return Creation(
        before=[
            """batch AS (
                INSERT INTO batches (id, tenant, request_id, fingerprint, jobs)
                VALUES (:batch_id, :tenant, :request_id, :fingerprint, :jobs)
                ON CONFLICT (tenant, request_id) WHERE request_id IS NOT NULL DO NOTHING
                RETURNING id AS batch_id, tenant, clock_timestamp() AS now,
                    pg_current_xact_id() AS xid
            )""",
            f"input AS (SELECT *, {DUE_COLUMNS} FROM batch, {rows})",
        ],
        values={
            "tenant": "tenant",
            "batch_id": "batch_id",
            "xid": "xid",
            "correlation_id": "CAST(:correlation_id AS text)",
            "submitted_by": "CAST(:submitted_by AS text)",
            "trace_context": "CAST(:trace_context AS text)",
            **COMMON_VALUES,
        },
        first="input",
        state=INITIAL_STATE,
        time="e.now",
        event_columns={"due_time": "CASE WHEN e.later THEN e.due END"},
        # The initial values of a job depend only on its schedule_time.
        result=f"""
            SELECT DISTINCT schedule_time, {INITIAL_STATE} AS state, now AS create_time,
                due AS due_time, {QUEUE_TIME} AS queue_time
            FROM input
        """,
    )


_INSERT_BATCH = _insert_batch(unnest_sql(PER_JOB | SPEC_TYPES))
_UNIFORM_SPEC = ", ".join(f"CAST(:{name} AS {kind}) AS {name}" for name, kind in SPEC_TYPES.items())
# The jobs of most batches have the same spec, so its columns are sent once.
_INSERT_UNIFORM = _insert_batch(f"{unnest_sql(PER_JOB)}, (SELECT {_UNIFORM_SPEC}) AS spec")

_BATCH = text("""
    SELECT id, fingerprint FROM batches WHERE tenant = :tenant AND request_id = :request_id
""")

_BATCH_JOBS = text(f"""
    SELECT {job_columns(full=False)} FROM jobs WHERE batch_id = :batch_id ORDER BY id
""")

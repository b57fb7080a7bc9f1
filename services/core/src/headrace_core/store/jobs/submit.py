"""The `submitted` transition: a new job becomes QUEUED or SCHEDULED."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import text

from headrace_core.domain.errors import RequestIdConflict
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import Job
from headrace_core.domain.submission import NewJob
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.rows import (
    COMMON_VALUES,
    DUE_COLUMNS,
    PER_JOB,
    SPEC_TYPES,
    InitialValues,
    created_job,
    job_columns,
    spec_arrays,
    spec_values,
    to_initial_values,
    to_job,
    unnest_sql,
)
from headrace_core.store.sql.transition import Creation


async def submit_jobs(conn: Connection, jobs: Sequence[NewJob]) -> list[Job | RequestIdConflict]:
    """Store jobs with their first events, in one statement.

    Returns:
        One result per job, in the order given: the new job, an earlier job with the same
        request_id and content, or the conflict.
    """
    created: dict[JobId, InitialValues] = {}
    earlier: dict[tuple[str, str], tuple[Job, bytes]] = {}
    new = jobs
    while new:
        created |= await _insert(conn, new)
        missing = [job for job in jobs if job.id not in created]
        earlier = await _by_request_id(conn, missing) if missing else {}
        # An earlier job may have been pruned between the two statements.
        new = [job for job in missing if (job.tenant, job.request_id) not in earlier]
    results: list[Job | RequestIdConflict] = []
    for job in jobs:
        start = created.get(job.id)
        if start is not None:
            made = created_job(
                job.id,
                job.spec,
                start,
                tenant=job.tenant,
                request_id=job.request_id,
                correlation_id=job.correlation_id,
                submitted_by=job.submitted_by,
                trace_context=job.trace_context,
            )
            results.append(made)
            continue
        assert job.request_id is not None
        results.append(_existing_or_conflict(job, *earlier[job.tenant, job.request_id]))
    return results


async def find_submitted(conn: Connection, job: NewJob) -> Job | RequestIdConflict | None:
    """Return the stored job with the request_id of `job`, or a conflict; None if not stored."""
    found = await _by_request_id(conn, [job])
    return next((_existing_or_conflict(job, *earlier) for earlier in found.values()), None)


def _existing_or_conflict(job: NewJob, other: Job, fingerprint: bytes) -> Job | RequestIdConflict:
    if job.matches(fingerprint):
        return other
    assert job.request_id is not None
    return RequestIdConflict(job.request_id, kind="job", existing_id=str(other.id))


async def _insert(conn: Connection, jobs: Sequence[NewJob]) -> dict[JobId, InitialValues]:
    rows = await conn.execute(
        _INSERT.statement,
        {
            "id": [job.id for job in jobs],
            "payload": [job.payload for job in jobs],
            **spec_arrays(spec_values(job.spec) for job in jobs),
            "tenant": [job.tenant for job in jobs],
            "request_id": [job.request_id for job in jobs],
            "fingerprint": [job.fingerprint for job in jobs],
            "correlation_id": [job.correlation_id for job in jobs],
            "submitted_by": _texts(job.submitted_by for job in jobs),
            "trace_context": _texts(
                None if job.trace_context is None else str(job.trace_context) for job in jobs
            ),
        },
    )
    return {
        job_id: start for row in rows for start in [to_initial_values(row)] for job_id in row["ids"]
    }


def _texts(values: Iterable[str | None]) -> Sequence[str | None]:
    """Return a column; empty if all values are None, because unnest() adds NULLs."""
    texts = list(values)
    return texts if any(texts) else ()


async def _by_request_id(
    conn: Connection, jobs: Sequence[NewJob]
) -> dict[tuple[str, str], tuple[Job, bytes]]:
    """Return the stored jobs with the request ids of `jobs`, and their fingerprints."""
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


_CALL_COLUMNS = {
    "tenant": "text",
    "request_id": "text",
    "fingerprint": "bytea",
    "correlation_id": "text",
    "submitted_by": "text",
    "trace_context": "text",
}

_INSERT = Creation(
    before=[
        "moment AS (SELECT clock_timestamp() AS now)",
        f"""input AS (SELECT *, {DUE_COLUMNS}
            FROM moment, {unnest_sql(PER_JOB | SPEC_TYPES | _CALL_COLUMNS)})""",
    ],
    values={name: name for name in _CALL_COLUMNS} | COMMON_VALUES,
    # All calls use one order, so two calls with the same keys cannot deadlock.
    options="""
        ORDER BY tenant, request_id
        ON CONFLICT (tenant, request_id) WHERE request_id IS NOT NULL DO NOTHING
    """,
    returning="id, xid, tenant, state, create_time, due_time, queue_time",
    event_columns={"due_time": "CASE WHEN e.state = 'scheduled' THEN e.due_time END"},
    order=["e.id"],
    result="""
        SELECT state, create_time, due_time, queue_time, array_agg(id) AS ids
        FROM created
        GROUP BY state, create_time, due_time, queue_time
    """,
)

_BY_REQUEST_ID = text(f"""
    SELECT {job_columns(full=False, table="j")}, j.fingerprint
    FROM jobs j
    JOIN unnest(CAST(:tenants AS text[]), CAST(:request_ids AS text[])) AS k (tenant, request_id)
        ON j.tenant = k.tenant AND j.request_id = k.request_id
""")

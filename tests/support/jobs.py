"""Jobs written directly to the store, and reads of their rows and events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import text

from headrace_core.domain.ids import BatchId, JobId, uuid7
from headrace_core.domain.job import DEFAULT_QUEUE, DEFAULT_TENANT, Job, JobEvent, JobSpec
from headrace_core.domain.submission import NewBatch, NewJob, Repeated, fingerprint
from headrace_core.store.event_log import list_events
from headrace_core.store.jobs.read import get_job
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.sql.database import Database

T = TypeVar("T")


def new_job(
    *,
    request_id: str | None = None,
    tenant: str = DEFAULT_TENANT,
    payload: str = "{}",
    **spec: Any,
) -> NewJob:
    """Return a job to submit; `spec` holds fields of JobSpec."""
    job_spec = JobSpec(**{"type": "test", "queue": DEFAULT_QUEUE, **spec})
    return NewJob(
        id=JobId(uuid7()),
        tenant=tenant,
        spec=job_spec,
        payload=payload,
        request_id=request_id,
        fingerprint=fingerprint(job_spec, payload) if request_id is not None else None,
    )


def new_batch(
    specs: Sequence[JobSpec],
    payloads: Sequence[str] | None = None,
    *,
    batch_id: BatchId | None = None,
    request_id: str | None = None,
    content: bytes = b"1",
) -> NewBatch:
    """Return a batch to submit; equal specs are stored once. `content` is its fingerprint."""
    return NewBatch(
        id=batch_id or BatchId(uuid7()),
        tenant=DEFAULT_TENANT,
        specs=repeated(specs),
        payloads=["{}"] * len(specs) if payloads is None else payloads,
        request_id=request_id,
        fingerprint=content,
    )


def repeated(items: Sequence[T]) -> Repeated[T]:
    """Return the items as a sequence that stores equal items once."""
    places = {item: place for place, item in enumerate(dict.fromkeys(items))}
    return Repeated(list(places), [places[item] for item in items])


async def submit(database: Database, **job: Any) -> Job:
    """Submit a job and return it; the arguments are those of `new_job`."""
    [submitted] = await submit_many(database, 1, **job)
    return submitted


async def submit_many(database: Database, count: int, **job: Any) -> list[Job]:
    """Submit equal jobs in one transaction."""
    async with database.transaction() as connection:
        results = await submit_jobs(connection, [new_job(**job) for _ in range(count)])
    return [result for result in results if isinstance(result, Job)]


async def read_job(database: Database, job_id: JobId, *, tenant: str = DEFAULT_TENANT) -> Job:
    """Return the current state of a job, with all fields."""
    async with database.transaction() as connection:
        return await get_job(connection, tenant=tenant, job_id=job_id, full=True)


async def history(database: Database, job_id: JobId) -> list[JobEvent]:
    """Return all events of a job."""
    async with database.transaction() as connection:
        return (
            await list_events(
                connection, tenant=DEFAULT_TENANT, job_id=job_id, after_seq=0, limit=10_000
            )
        ).events


async def set_column(database: Database, job_id: JobId, assignment: str) -> None:
    """Change a column of a job directly, for example `deadline = now() - interval '1 s'`."""
    async with database.transaction() as connection:
        changed = await connection.execute(
            text(f"UPDATE jobs SET {assignment} WHERE id = :id"), {"id": job_id}
        )
        assert changed.rowcount == 1

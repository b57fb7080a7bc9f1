"""Workers that exist only in the store. A test claims and ends their attempts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import text

from headrace_core.domain.attempt import AttemptEnd, AttemptKey, AttemptReport, ClaimedJob
from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.ids import JobId, WorkerId, uuid7
from headrace_core.domain.job import DEFAULT_TENANT, Job, JobError
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.pool import NewWorker
from headrace_core.store.jobs.claim import claim_jobs
from headrace_core.store.jobs.end import end_attempts
from headrace_core.store.jobs.report import write_reports
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import register_worker, renew_lease

ERROR = JobError(type="ValueError", message="it broke", retryable=True)

# The required fields of each end.
_FIELDS: dict[EventType, dict[str, Any]] = {
    EventType.SUCCEEDED: {"result": '{"sum": 6}'},
    EventType.RETRY_SCHEDULED: {"error": ERROR, "backoff": timedelta(hours=1)},
    EventType.FAILED: {"error": ERROR},
    EventType.EXPIRED: {"error": ERROR},
    EventType.WORKER_LOST: {"error": ERROR},
}


async def register(
    database: Database,
    *handlers: str | HandlerSpec,
    pool: str = "pool",
    queues: Sequence[str] = (),
    slots: int = 10,
    tenant: str | Sequence[str] = DEFAULT_TENANT,
) -> WorkerId:
    """Register a live worker with `handlers`, as specs or types (default: the type "test").

    `tenant` is a tenant, several tenants, or an empty sequence for all tenants.
    """
    worker_id = WorkerId(uuid7())
    worker = NewWorker(
        id=worker_id,
        tenants=[tenant] if isinstance(tenant, str) else tenant,
        name="fake",
        pool=pool,
        queues=queues,
        slots=slots,
        handlers=[
            HandlerSpec(type=handler) if isinstance(handler, str) else handler
            for handler in handlers or ("test",)
        ],
    )
    async with database.transaction() as connection:
        await register_worker(connection, worker, lease=timedelta(minutes=10))
    return worker_id


async def lapse(database: Database, worker_id: WorkerId) -> None:
    """Set the lease of a worker to lapsed."""
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "UPDATE workers SET heartbeat_time = now() - interval '20 s', "
                "lease_expire_time = now() - interval '5 s' WHERE id = :id"
            ),
            {"id": worker_id},
        )


async def drain(database: Database, worker_id: WorkerId) -> None:
    """Mark a worker as draining."""
    async with database.transaction() as connection:
        lease = timedelta(minutes=10)
        assert await renew_lease(connection, worker_id=worker_id, lease=lease, draining=True)


async def claim(
    database: Database,
    worker_id: WorkerId,
    deliveries: Sequence[AttemptKey],
    *,
    most: int | None = None,
) -> list[ClaimedJob]:
    """Claim deliveries in a separate transaction."""
    async with database.transaction() as connection:
        return await claim_jobs(connection, worker_id=worker_id, deliveries=deliveries, most=most)


def delivery(job: Job) -> AttemptKey:
    """Return the next delivery of a job."""
    return AttemptKey(job.id, job.attempt + 1)


async def start(database: Database, worker_id: WorkerId, *jobs: Job) -> list[ClaimedJob]:
    """Let a worker claim jobs, and assert that it received all of them."""
    claimed = await claim(database, worker_id, [delivery(job) for job in jobs])
    assert [job.key.job_id for job in claimed] == [job.id for job in jobs]
    return claimed


def attempt_end(job_id: JobId, attempt: int, event: EventType, **fields: Any) -> AttemptEnd:
    """Return the end of an attempt; `fields` override the defaults of the event."""
    return AttemptEnd(
        key=AttemptKey(job_id, attempt), event=event, **{**_FIELDS.get(event, {}), **fields}
    )


async def write_ends(
    database: Database, worker_id: WorkerId, *ends: AttemptEnd
) -> dict[JobId, EventType]:
    """Write ends of attempts in one transaction; return the event of each accepted end by job."""
    async with database.transaction() as connection:
        written = await end_attempts(connection, worker_id=worker_id, ends=ends)
    return {key.job_id: event for key, event in written.items()}


async def report(database: Database, worker_id: WorkerId, *reports: AttemptReport) -> set[JobId]:
    """Write reports in one transaction; return the jobs with accepted reports."""
    async with database.transaction() as connection:
        written = await write_reports(connection, worker_id=worker_id, reports=reports)
    return {key.job_id for key in written}

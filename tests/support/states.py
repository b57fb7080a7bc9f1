"""Jobs in each state, prepared by the transitions that lead to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from headrace_core.domain.ids import WorkerId
from headrace_core.domain.job import DEFAULT_TENANT, Job
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.sql.database import Database
from support.jobs import read_job, submit
from support.workers import attempt_end, register, start, write_ends

_ENDS = {
    JobState.RETRYING: EventType.RETRY_SCHEDULED,
    JobState.SUCCEEDED: EventType.SUCCEEDED,
    JobState.FAILED: EventType.FAILED,
}


@dataclass(frozen=True)
class PreparedJob:
    """A job in the requested state, and a live worker that runs it or can run it."""

    job: Job
    worker_id: WorkerId


async def prepare_job(database: Database, state: JobState) -> PreparedJob:
    """Create a job in `state`, and a worker for it."""
    worker_id = await register(database)
    later = datetime.now(UTC) + timedelta(hours=1) if state is JobState.SCHEDULED else None
    job = await submit(database, schedule_time=later, request_id=f"for {worker_id}")
    if state is JobState.CANCELLED:
        async with database.transaction() as connection:
            await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job.id)
    elif state is JobState.RUNNING or state in _ENDS:
        await start(database, worker_id, job)
        if state in _ENDS:
            await write_ends(database, worker_id, attempt_end(job.id, 1, _ENDS[state]))
    job = await read_job(database, job.id)
    assert job.state is state
    return PreparedJob(job, worker_id)

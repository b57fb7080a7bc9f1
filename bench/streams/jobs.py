"""Submit and start the watched jobs in the store, as the gateway and the worker do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final, TypeVar

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.ids import JobId, WorkerId, uuid7
from headrace_core.domain.job import DEFAULT_TENANT, JobSpec
from headrace_core.domain.pool import NewWorker
from headrace_core.domain.submission import NewJob
from headrace_core.store.jobs.claim import claim_jobs
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import register_worker

TYPE: Final = "bench"
# The label that WatchJobs streams filter by.
LABEL: Final = "stream"
# A started job has two events, submitted and started.
STARTED_SEQ: Final = 2

_BATCH_SIZE: Final = 500
_LEASE: Final = timedelta(days=1)

T = TypeVar("T")


async def submit(database: Database, labels: Sequence[str]) -> list[JobId]:
    """Submit one job per label and return the ids in the same order."""
    ids: list[JobId] = []
    for batch in _batches(labels):
        jobs = [
            NewJob(
                id=JobId(uuid7()),
                tenant=DEFAULT_TENANT,
                spec=JobSpec(type=TYPE, queue=TYPE, labels={LABEL: name}),
                payload='{"rows": 1000}',
            )
            for name in batch
        ]
        async with database.transaction() as connection:
            await submit_jobs(connection, jobs)
        ids += [job.id for job in jobs]
    return ids


async def start(database: Database, ids: Sequence[JobId]) -> WorkerId:
    """Register a worker that claims all these jobs; return its id."""
    worker = NewWorker(
        id=WorkerId(uuid7()),
        tenants=[DEFAULT_TENANT],
        name="bench",
        pool="bench",
        queues=(),
        slots=len(ids),
        handlers=[HandlerSpec(type=TYPE)],
    )
    async with database.transaction() as connection:
        await register_worker(connection, worker, lease=_LEASE)
    for batch in _batches(ids):
        deliveries = [AttemptKey(job_id, 1) for job_id in batch]
        async with database.transaction() as connection:
            claimed = await claim_jobs(connection, worker_id=worker.id, deliveries=deliveries)
        assert len(claimed) == len(batch)
    return worker.id


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + _BATCH_SIZE] for start in range(0, len(items), _BATCH_SIZE))

"""A scheduler and workers in this process, and jobs written directly to the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import DEFAULT_QUEUE, DEFAULT_TENANT, Job, JobEvent, JobSpec
from headrace_core.domain.lifecycle import TERMINAL, EventType
from headrace_core.domain.submission import NewJob
from headrace_core.domain.trace import TraceContext
from headrace_core.runtime.settings import Settings
from headrace_core.store.event_log import list_events
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.read import get_job
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus, WakeSubscription
from headrace_scheduler.service import Scheduler
from headrace_worker.api.registry import Registry
from headrace_worker.service import WorkerService

# The limit of each wait in seconds, generous because the machine may be busy.
DEADLINE_S = 90


class Platform:
    """A running platform for tests. Waits check their condition after each wake-up."""

    def __init__(
        self, settings: Settings, database: Database, bus: WakeBus, wake: WakeSubscription
    ) -> None:
        self.settings = settings
        self.database = database
        self.bus = bus
        self._wake = wake

    async def submit(self, job_type: str, payload: str = "{}", **spec: Any) -> JobId:
        """Submit a job; return its id."""
        [job_id] = await self.submit_many(1, job_type, payload, **spec)
        return job_id

    async def submit_many(
        self,
        count: int,
        job_type: str,
        payload: str = "{}",
        *,
        correlation_id: str | None = None,
        trace_context: TraceContext | None = None,
        **spec: Any,
    ) -> list[JobId]:
        """Submit identical jobs in one commit; return their ids."""
        job_spec = JobSpec(type=job_type, **{"queue": DEFAULT_QUEUE, **spec})
        jobs = [
            NewJob(
                id=JobId(uuid7()),
                tenant=DEFAULT_TENANT,
                spec=job_spec,
                payload=payload,
                correlation_id=correlation_id,
                trace_context=trace_context,
            )
            for _ in range(count)
        ]
        async with self.database.transaction() as connection:
            results = await submit_jobs(connection, jobs)
        self.bus.publish(Topic.JOBS, Topic.EVENTS)
        assert all(isinstance(result, Job) for result in results)
        return [job.id for job in jobs]

    async def cancel(self, job_id: JobId) -> Job:
        """Request the cancellation of a job."""
        async with self.database.transaction() as connection:
            job = await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)
        self.bus.publish(Topic.CANCELS, Topic.EVENTS)
        return job

    async def job(self, job_id: JobId) -> Job:
        """Return the current state of a job."""
        async with self.database.transaction() as connection:
            return await get_job(connection, tenant=DEFAULT_TENANT, job_id=job_id, full=True)

    async def events(self, job_id: JobId) -> list[JobEvent]:
        """Return the events of a job."""
        async with self.database.transaction() as connection:
            return (
                await list_events(
                    connection, tenant=DEFAULT_TENANT, job_id=job_id, after_seq=0, limit=1000
                )
            ).events

    async def history(self, job_id: JobId) -> list[EventType]:
        """Return the types of a job's events."""
        return [event.type for event in await self.events(job_id)]

    async def until(self, job_id: JobId, event: EventType) -> JobEvent:
        """Wait until a job has an event of this type; return its newest event of the type."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for seen in reversed(await self.events(job_id)):
                    if seen.type is event:
                        return seen
                await self._wake.wait(1)

    async def wait_for_wake_up(self) -> None:
        """Wait for a wake-up, for at most a second."""
        await self._wake.wait(1)

    async def until_ended(self, job_id: JobId) -> Job:
        """Wait until a job has ended; return it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                job = await self.job(job_id)
                if job.state in TERMINAL:
                    return job
                await self._wake.wait(1)


@asynccontextmanager
async def platform(
    settings: Settings, handlers: Registry, *, workers: int = 1
) -> AsyncIterator[Platform]:
    """Run a leading scheduler and registered workers for the duration of the block."""
    async with AsyncExitStack() as stack:
        database = Database(settings, application="test")
        stack.push_async_callback(database.close)
        bus = WakeBus(settings, database, Topic.EVENTS)
        await bus.start()
        stack.push_async_callback(bus.stop)
        scheduler = Scheduler(settings)
        await scheduler.start()
        stack.push_async_callback(scheduler.stop)
        for _ in range(workers):
            worker = WorkerService(settings, handlers)
            await worker.start()
            stack.push_async_callback(worker.stop)
        async with asyncio.timeout(DEADLINE_S):
            await scheduler.leader.leading.wait()
        yield Platform(settings, database, bus, bus.subscribe(Topic.EVENTS))

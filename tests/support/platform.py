"""A scheduler and workers in this process, on the servers of a test, and jobs put straight in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import DEFAULT_QUEUE, DEFAULT_TENANT, Job, JobEvent, JobSpec
from headrace_core.domain.lifecycle import TERMINAL, EventType
from headrace_core.domain.submission import NewJob, Submitted
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

# No wait of a test is longer, in seconds.
DEADLINE_S = 30


class Platform:
    """What a test says and asks; it waits on wake-ups, not on time."""

    def __init__(
        self, settings: Settings, database: Database, bus: WakeBus, wake: WakeSubscription
    ) -> None:
        self.settings = settings
        self.database = database
        self.bus = bus
        self._wake = wake

    async def submit(self, job_type: str, payload: str = "{}", **spec: Any) -> JobId:
        """Submits a job; returns its id."""
        [job_id] = await self.submit_many(1, job_type, payload, **spec)
        return job_id

    async def submit_many(
        self,
        count: int,
        job_type: str,
        payload: str = "{}",
        *,
        correlation_id: str | None = None,
        **spec: Any,
    ) -> list[JobId]:
        """Submits jobs that are alike, in one commit."""
        made = JobSpec(type=job_type, **{"queue": DEFAULT_QUEUE, **spec})
        jobs = [
            NewJob(
                id=JobId(uuid7()),
                tenant=DEFAULT_TENANT,
                spec=made,
                payload=payload,
                correlation_id=correlation_id,
            )
            for _ in range(count)
        ]
        async with self.database.transaction() as connection:
            results = await submit_jobs(connection, jobs)
        self.bus.publish(Topic.JOBS, Topic.EVENTS)
        assert all(isinstance(result, Submitted) for result in results)
        return [job.id for job in jobs]

    async def cancel(self, job_id: JobId) -> Job:
        """Asks for a job's cancellation."""
        async with self.database.transaction() as connection:
            job = await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)
        self.bus.publish(Topic.CANCELS, Topic.EVENTS)
        return job

    async def job(self, job_id: JobId) -> Job:
        """A job as it is now."""
        async with self.database.transaction() as connection:
            return await get_job(connection, tenant=DEFAULT_TENANT, job_id=job_id, full=True)

    async def events(self, job_id: JobId) -> list[JobEvent]:
        """A job's history."""
        async with self.database.transaction() as connection:
            return (
                await list_events(
                    connection, tenant=DEFAULT_TENANT, job_id=job_id, after_seq=0, limit=1000
                )
            ).events

    async def history(self, job_id: JobId) -> list[EventType]:
        """The types of a job's events."""
        return [event.type for event in await self.events(job_id)]

    async def until(self, job_id: JobId, event: EventType) -> JobEvent:
        """Waits until a job has had an event; returns the newest of that type."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for seen in reversed(await self.events(job_id)):
                    if seen.type is event:
                        return seen
                await self._wake.wait(1)

    async def wait(self) -> None:
        """Waits until something has happened, for a second at most."""
        await self._wake.wait(1)

    async def ended(self, job_id: JobId) -> Job:
        """Waits until a job has ended; returns it."""
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
    """A scheduler that leads, and workers that are registered."""
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

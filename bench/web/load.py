"""The load: jobs that are submitted, started and ended in the store at a fixed rate."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Final

from bench.child import IDLE_S, Link
from headrace_core.domain.attempt import AttemptEnd, AttemptKey
from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.ids import JobId, WorkerId, uuid7
from headrace_core.domain.job import JobSpec
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.pool import NewWorker
from headrace_core.domain.submission import NewJob
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.claim import claim_jobs
from headrace_core.store.jobs.end import end_attempts
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import register_worker
from headrace_core.wake import Topic, WakeBus

TYPE: Final = "bench"
# Jobs per commit, as in a busy worker's group commit.
_JOBS_PER_COMMIT: Final = 10
# Each job has three events: submitted, started and succeeded.
_EVENTS_PER_JOB: Final = 3
_LEASE: Final = timedelta(days=1)


async def write(link: Link, settings: Settings, tenant: str) -> None:
    """Write events on request.

    Args:
        link: receives numbers: the events per second from now on, 0 for none. After each, the
            number of events since the previous request is sent.
        settings: the settings with the addresses of the servers.
        tenant: the tenant of the jobs.
    """
    database = Database(settings, application="bench-writer")
    bus = WakeBus(settings, database)
    await bus.start()
    writer = Writer(database, bus, tenant)
    await writer.register()
    rate = 0.0
    try:
        while True:
            running = asyncio.create_task(writer.run(rate))
            rate = await link.receive(float, timeout=IDLE_S)
            running.cancel()
            await asyncio.wait([running])
            link.send(writer.take_events())
    finally:
        await bus.stop()
        await database.close()


class Writer:
    """Submits, starts and ends jobs.

    Args:
        database: stores the jobs.
        bus: announces the events.
        tenant: the tenant of the jobs.
    """

    def __init__(self, database: Database, bus: WakeBus, tenant: str) -> None:
        self._database = database
        self._bus = bus
        self._tenant = tenant
        self._worker = WorkerId(uuid7())
        self._events = 0

    async def register(self) -> None:
        """Register the worker that runs the jobs."""
        worker = NewWorker(
            id=self._worker,
            tenants=[self._tenant],
            name="bench",
            pool="bench",
            queues=(),
            slots=100,
            handlers=[HandlerSpec(type=TYPE)],
        )
        async with self._database.transaction() as connection:
            await register_worker(connection, worker, lease=_LEASE)

    async def run(self, rate: float) -> None:
        """Write `rate` events per second until the task is cancelled."""
        if not rate:
            return
        interval = _JOBS_PER_COMMIT * _EVENTS_PER_JOB / rate
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self.run_jobs(_JOBS_PER_COMMIT))
                due += interval
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def run_jobs(self, count: int) -> None:
        """Submit, start and end jobs, in one transaction each."""
        ids = await self.submit(count)
        attempts = [AttemptKey(job_id, 1) for job_id in ids]
        async with self._database.transaction() as connection:
            await claim_jobs(connection, worker_id=self._worker, deliveries=attempts)
        self._note(count)
        ends = [
            AttemptEnd(key=attempt, event=EventType.SUCCEEDED, result="null")
            for attempt in attempts
        ]
        async with self._database.transaction() as connection:
            await end_attempts(connection, worker_id=self._worker, ends=ends)
        self._note(count)

    async def submit(self, count: int, *, job_type: str = TYPE) -> list[JobId]:
        """Submit jobs in one transaction and return their ids."""
        jobs = [
            NewJob(
                id=JobId(uuid7()),
                tenant=self._tenant,
                spec=JobSpec(type=job_type, queue=job_type),
                payload="{}",
            )
            for _ in range(count)
        ]
        async with self._database.transaction() as connection:
            await submit_jobs(connection, jobs)
        self._note(count)
        return [job.id for job in jobs]

    def take_events(self) -> int:
        """Return the number of events since the previous call."""
        events, self._events = self._events, 0
        return events

    def _note(self, events: int) -> None:
        self._events += events
        self._bus.publish(Topic.EVENTS)

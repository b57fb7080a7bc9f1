"""A load of jobs with many events."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from headrace import Batch, Client, JobSpec
from headrace_core.store.sql.database import Database
from support.until import until
from support.watching import open_writer

QUEUES = ("north", "east", "south", "west")
TEAMS = ("one", "two", "three", "four")
# The queue of jobs whose transactions commit late.
LATE_QUEUE = "late"

# Most of these job types report progress or output, and each report is an event.
_TYPES = ("t.output", "t.emit_at_once", "t.thread", "t.flaky", "t.hopeless", "t.echo")
_WEIGHTS = (4, 4, 4, 1, 1, 1)
_MAX_PIECES = 15

# The maximum number of jobs in one submit.
_MAX_JOBS = 40
# Shortest and longest pause between two submits, in seconds.
_PAUSE_S = (0.2, 0.6)
# The load submits nothing while this many jobs are waiting or running.
_MAX_OPEN_JOBS = 200
# Longest pause of a late transaction, before and after its write, in seconds.
_MAX_DELAY_S = 0.4
# The jobs of a batch become due within this time, in seconds.
_SPREAD_S = 10.0
# Time limit for all jobs to end, in seconds.
_END_TIMEOUT_S = 100.0


class EventLoad:
    """Submits jobs of many kinds, singly, in bulk and in transactions that commit late.

    Args:
        client: submits most jobs.
        database: the database for the late transactions.
        rng: the source of all random decisions.

    Attributes:
        jobs: the ids of the jobs submitted by the client.
    """

    def __init__(self, client: Client, database: Database, rng: random.Random) -> None:
        self.jobs: list[str] = []
        self._client = client
        self._database = database
        self._rng = rng
        self._stopped = False

    async def submit_batch(self, size: int) -> Batch:
        """Submit a batch of jobs that become due one by one while the load runs."""
        soon = datetime.now(UTC)
        times = [soon + timedelta(seconds=self._rng.uniform(0, _SPREAD_S)) for _ in range(size)]
        return await self._submit([self._spec(pieces=2, schedule_time=time) for time in times])

    async def run(self) -> None:
        """Submit jobs until `stop`, and wait until every job has ended."""
        async with asyncio.TaskGroup() as late:
            while not self._stopped:
                await asyncio.sleep(self._rng.uniform(*_PAUSE_S))
                if await self._count(_OPEN) >= _MAX_OPEN_JOBS:
                    continue
                late.create_task(self._commit_late())
                size = self._rng.randint(1, _MAX_JOBS)
                await self._submit([self._spec() for _ in range(size)])
        await until(self._all_ended, within=_END_TIMEOUT_S)

    def stop(self) -> None:
        """Stop submitting."""
        self._stopped = True

    async def has_events(self, events: float) -> bool:
        """Return whether the database contains at least `events` events."""
        return await self._count(_EVENTS) >= events

    def _spec(self, *, pieces: int = _MAX_PIECES, **options: datetime) -> JobSpec:
        [job_type] = self._rng.choices(_TYPES, _WEIGHTS)
        return JobSpec(
            job_type,
            {"number": self._rng.randint(1, pieces)},
            queue=self._rng.choice(QUEUES),
            labels={"team": self._rng.choice(TEAMS)},
            **options,
        )

    async def _submit(self, specs: Sequence[JobSpec]) -> Batch:
        batch = await self._client.submit_many(specs)
        self.jobs += [job.id for job in batch.jobs]
        return batch

    async def _commit_late(self) -> None:
        writer = await open_writer(self._database)
        try:
            await asyncio.sleep(self._rng.uniform(0, _MAX_DELAY_S))
            await writer.submit(self._rng.randint(1, 3), type="t.echo", queue=LATE_QUEUE)
            await asyncio.sleep(self._rng.uniform(0, _MAX_DELAY_S))
        finally:
            await writer.commit()

    async def _all_ended(self) -> bool:
        return not await self._count(_UNFINISHED)

    async def _count(self, query: str) -> int:
        async with self._database.transaction() as connection:
            return int(await connection.scalar(text(query)))


_EVENTS = "SELECT count(*) FROM job_events"
_OPEN = "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')"
_UNFINISHED = "SELECT count(*) FROM jobs WHERE end_time IS NULL"

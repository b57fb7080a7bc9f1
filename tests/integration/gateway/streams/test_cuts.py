"""Streams that are cut at random and resumed at either gateway send every event."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing

import pytest
from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.job import DEFAULT_TENANT, Job, JobEvent
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.query import JobFilter
from headrace_core.runtime.settings import Settings
from headrace_core.store.event_log import Place, place_of
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.streams import Watch
from headrace_gateway.streams.timing import Timing
from support.jobs import submit, submit_many
from support.proxy import Proxy
from support.until import until
from support.watching import follow_job, follow_jobs, open_writer, subscriptions, watching
from support.workers import attempt_end, report, start, write_ends

JOBS = 60


async def write_jobs(
    database: Database,
    worker_id: WorkerId,
    bus: WakeBus,
    rng: random.Random,
    submitted: Callable[[JobId], None],
) -> None:
    """Submit, run and end jobs while other transactions are open; publish some wake-ups."""
    written: list[JobId] = []
    waiting: list[Job] = []
    running: list[Job] = []
    while len(written) < JOBS or waiting or running:
        late_writer = await open_writer(database) if rng.random() < 0.3 else None
        if late_writer is not None:
            written += await late_writer.submit(queue="left")
        if len(written) < JOBS:
            jobs = await submit_many(database, rng.randint(1, 5), queue="run")
            written += [job.id for job in jobs]
            waiting += jobs
            for job in jobs:
                submitted(job.id)
        if waiting and rng.random() < 0.7:
            await start(database, worker_id, *waiting)
            running, waiting = running + waiting, []
        for job in running:
            steps = [
                AttemptReport(key=AttemptKey(job.id, 1), output="1")
                for _ in range(rng.randint(0, 9))
            ]
            if steps:
                assert await report(database, worker_id, *steps)
        if rng.random() < 0.5:
            ends = [attempt_end(job.id, 1, EventType.SUCCEEDED) for job in running]
            await write_ends(database, worker_id, *ends)
            running = []
        if late_writer is not None:
            await late_writer.commit()
        if rng.random() < 0.5:
            bus.publish(Topic.EVENTS)


async def watch_all(
    watches: list[Watch], cursor: str, rng: random.Random, end: asyncio.Future[Place]
) -> list[JobEvent]:
    """Follow all jobs to the end of the log, and cut the stream after every few pages."""
    seen: list[JobEvent] = []
    while not (end.done() and seen and place_of(seen[-1]) >= end.result()):
        remaining = rng.randint(0, 4)
        stream = rng.choice(watches).watch_jobs(DEFAULT_TENANT, JobFilter(), cursor)
        async with aclosing(stream) as pages:
            async for page in pages:
                seen += page.events
                cursor = page.cursor
                remaining -= 1
                if remaining < 0 or (end.done() and seen and place_of(seen[-1]) >= end.result()):
                    break
    return seen


async def watch_one(watches: list[Watch], job_id: JobId, rng: random.Random) -> list[JobEvent]:
    """Follow a job to its end, and cut the stream after every few messages."""
    seen: list[JobEvent] = []
    while True:
        remaining = rng.randint(0, 2)
        stream = rng.choice(watches).watch_job(DEFAULT_TENANT, job_id, seen[-1].seq if seen else 0)
        async with aclosing(stream) as messages:
            async for events in messages:
                seen += events
                remaining -= 1
                if remaining < 0:
                    break
            else:
                return seen


@pytest.mark.parametrize("seed", range(3))
async def test_resumed_streams_send_every_event_once_in_order(
    settings: Settings, database: Database, worker_id: WorkerId, bus: WakeBus, seed: int
):
    rng = random.Random(seed)
    small_queue = settings.model_copy(update={"stream_queue_events": 20})
    async with watching(small_queue) as one, watching(small_queue) as other, asyncio.timeout(60):
        first = follow_jobs(one)
        await first.until(lambda reader: bool(reader.pages))
        await first.cancel()
        end: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        watchers = [
            asyncio.create_task(
                watch_all([one, other], first.pages[0].cursor, random.Random(f"{seed} {n}"), end)
            )
            for n in range(8)
        ]
        singles: dict[JobId, asyncio.Task[list[JobEvent]]] = {}

        def follow(job_id: JobId) -> None:
            watch = watch_one([one, other], job_id, random.Random(f"{seed} {job_id}"))
            singles[job_id] = asyncio.create_task(watch)

        await write_jobs(database, worker_id, bus, rng, follow)
        log = await read_log(database)
        end.set_result(log[-1][:2])
        for watcher in watchers:
            assert [(*place_of(event), event.job_id, event.seq) for event in await watcher] == log
        for job_id, single in singles.items():
            seqs = [seq for _, _, logged, seq in log if logged == job_id]
            assert [event.seq for event in await single] == seqs
        for watch in (one, other):
            assert watch.gauges.gaps == 0
            assert subscriptions(watch) == (0, 0, 0)


async def read_log(database: Database) -> list[tuple[int, int, JobId, int]]:
    """Return all events in the order of their places: (xid, position, job, seq)."""
    async with database.transaction() as connection:
        rows = await connection.execute(
            text(
                "SELECT xid::text::bigint AS xid, position, job_id, seq FROM job_events e "
                "ORDER BY e.xid, position"
            )
        )
        return [tuple(row) for row in rows]


async def test_long_postgresql_outage_ends_streams(settings: Settings, database: Database):
    proxy = Proxy(settings.database_url.get_secret_value())
    await proxy.start()
    through = Settings.model_validate({**settings.model_dump(), "database_url": proxy.url})
    job = await submit(database)
    async with watching(through, Timing(patience=0.5)) as watch:
        one, all_jobs = follow_job(watch, job.id), follow_jobs(watch)
        await one.has(1)
        await all_jobs.until(lambda reader: bool(reader.pages))
        await proxy.cut()
        for reader in (one, all_jobs):
            with pytest.raises(Unavailable):
                await reader.end()
        assert subscriptions(watch) == (0, 0, 0)
        await proxy.start()
        jobs = await submit_many(database, 3)

        async def resumes() -> bool:
            resumed = follow_jobs(watch, all_jobs.pages[-1].cursor)
            try:
                await resumed.has(3)
            except (TimeoutError, Unavailable):
                return False
            finally:
                await resumed.cancel()
            return [event.job_id for event in resumed.events] == [job.id for job in jobs]

        await until(resumes)
    await proxy.cut()

"""Promotion: jobs are queued when they are due, and never earlier."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from sqlalchemy import text

from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.promote import next_due, promote_due
from headrace_core.store.jobs.read import database_time
from headrace_core.store.sql.database import Database
from support.histories import assert_legal
from support.jobs import history, read_job, set_column, submit, submit_many
from support.leading import lead
from support.states import prepare_job
from support.until import until


async def promote(database: Database, limit: int = 100) -> int:
    async with database.transaction() as connection:
        return await promote_due(connection, term=await lead(database), limit=limit)


async def time_to_next_due(database: Database) -> timedelta | None:
    async with database.transaction() as connection:
        return await next_due(connection)


async def scheduled_in(database: Database, **delta: float) -> dict[str, object]:
    """Return the arguments for a job that is due later, by the database's clock."""
    async with database.transaction() as connection:
        return {"schedule_time": await database_time(connection) + timedelta(**delta)}


async def test_job_is_queued_by_the_database_clock(database: Database) -> None:
    job = await submit(database, **await scheduled_in(database, seconds=1))
    assert await promote(database) == 0
    remaining = await time_to_next_due(database)
    assert remaining is not None
    assert timedelta() < remaining <= timedelta(seconds=1)
    await until(lambda: promote(database))
    job = await read_job(database, job.id)
    assert job.state is JobState.QUEUED
    assert job.queue_time is not None
    assert job.due_time <= job.queue_time < job.due_time + timedelta(seconds=5)
    assert await time_to_next_due(database) is None
    assert_legal(job, await history(database, job.id))


async def test_queued_retry_keeps_its_used_retries(database: Database) -> None:
    retrying = (await prepare_job(database, JobState.RETRYING)).job
    assert await promote(database) == 0
    async with database.transaction() as connection:
        assert await next_due(connection) > timedelta(minutes=59)  # type: ignore[operator]
    assert retrying.retries_used == 1


async def test_due_jobs_are_queued_in_pages_oldest_first(
    database: Database,
) -> None:
    later, *jobs = await submit_many(database, 7, **await scheduled_in(database, hours=1))
    delays = [30, 10, 20, 10, 60, 20]
    for job, seconds in zip(jobs, delays, strict=True):
        await set_column(database, job.id, f"due_time = now() - interval '{seconds} s'")
    remaining = await time_to_next_due(database)
    assert remaining is not None
    assert remaining <= timedelta(seconds=-60)
    pages = [await promote(database, limit=4), await promote(database, limit=4)]
    assert pages == [4, 2]
    assert await promote(database, limit=4) == 0
    order = sorted(zip(delays, jobs, strict=True), key=lambda pair: -pair[0])
    events = [(await history(database, job.id))[-1] for _, job in order]
    assert {event.type for event in events} == {EventType.DUE}
    # The first page contains the four jobs with the earliest due times.
    assert max(event.xid for event in events[:4]) < min(event.xid for event in events[4:])
    assert (await read_job(database, later.id)).state is JobState.SCHEDULED


async def test_locked_job_does_not_delay_other_jobs(database: Database) -> None:
    locked, free = await submit_many(database, 2, **await scheduled_in(database, hours=1))
    for job in (locked, free):
        await set_column(database, job.id, "due_time = now()")
    async with database.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=locked.id)
        async with asyncio.timeout(15):
            assert await promote(database) == 1
    assert (await read_job(database, free.id)).state is JobState.QUEUED
    assert (await read_job(database, locked.id)).state is JobState.CANCELLED


async def test_concurrent_promotions_queue_each_job_once(large_pool: Database) -> None:
    jobs = await submit_many(large_pool, 300, **await scheduled_in(large_pool, hours=1))
    async with large_pool.transaction() as connection:
        await connection.execute(text("UPDATE jobs SET due_time = now()"))
    promoted = 0
    async with asyncio.timeout(30):
        while promoted < 300:
            promoted += sum(
                await asyncio.gather(*(promote(large_pool, limit=50) for _ in range(8)))
            )
    assert promoted == 300
    for job in jobs[:20]:
        assert [event.type for event in await history(large_pool, job.id)] == [
            EventType.SUBMITTED,
            EventType.DUE,
        ]

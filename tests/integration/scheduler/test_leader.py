"""One scheduler leads, the others stand by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from headrace_core.dispatch.keys import queue_key
from headrace_core.domain.lifecycle import JobState
from headrace_core.settings import Settings
from headrace_core.store.database import Database
from headrace_core.store.leadership import Leadership, try_lead
from headrace_core.tasks import end_tasks
from headrace_core.wake import Topic, Waker
from headrace_scheduler import leader
from headrace_scheduler.leader import Leader
from headrace_scheduler.service import Scheduler
from support.jobs import read_job, set_column, submit
from support.until import until
from support.workers import register


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stands by tries again at once."""
    monkeypatch.setattr(leader.random, "uniform", lambda *_: 0.02)


class Office:
    """Work that lasts for as long as its leader leads, and a count of who does it."""

    def __init__(self) -> None:
        self.at_work = 0
        self.terms = 0
        self.fault: Exception | None = None

    async def work(self) -> None:
        self.at_work += 1
        self.terms += 1
        try:
            if self.fault is not None:
                fault, self.fault = self.fault, None
                raise fault
            await asyncio.Event().wait()
        finally:
            self.at_work -= 1


@asynccontextmanager
async def candidate(settings: Settings, office: Office) -> AsyncIterator[Leader]:
    database = Database(settings, application="test-candidate")
    standing = Leader(database=database, work=office.work)
    running = asyncio.create_task(standing.run())
    try:
        yield standing
    finally:
        async with asyncio.timeout(10):
            await end_tasks(running)
        await database.close()
    assert running.cancelled(), running.exception()


async def leads(*leaders: Leader) -> Leader:
    """Waits until one of them leads."""
    leading = await until(lambda: next((one for one in leaders if one.leading.is_set()), None))
    assert leading is not None
    return leading


async def terminate_leader(database: Database) -> None:
    async with database.transaction() as connection:
        ended = await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks "
                "WHERE locktype = 'advisory' AND granted"
            )
        )
        assert ended.rowcount == 1


async def test_one_of_several_leads(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    tries = []

    def counted(database: Database) -> AbstractAsyncContextManager[Leadership | None]:
        tries.append(database)
        return try_lead(database)

    monkeypatch.setattr(leader, "try_lead", counted)
    async with AsyncExitStack() as stack:
        candidates = [
            await stack.enter_async_context(candidate(settings, office)) for _ in range(3)
        ]
        await leads(*candidates)
        # The others try again and again.
        await until(lambda: len(tries) > 20)
        assert sum(one.leading.is_set() for one in candidates) == 1
        assert (office.at_work, office.terms) == (1, 1)
    assert office.at_work == 0


async def test_when_the_leader_ends_another_takes_over(settings: Settings) -> None:
    office = Office()
    async with AsyncExitStack() as first:
        await leads(await first.enter_async_context(candidate(settings, office)))
        async with candidate(settings, office) as standby:
            assert not standby.leading.is_set()
            await first.aclose()
            await leads(standby)
            await until(lambda: (office.at_work, office.terms) == (1, 2))


async def test_when_its_connection_is_ended_another_takes_over(
    settings: Settings, database: Database
) -> None:
    office = Office()
    async with candidate(settings, office) as one, candidate(settings, office) as two:
        first = await leads(one, two)
        await terminate_leader(database)
        # It stops at once: the lock is no longer its own.
        await until(lambda: not first.leading.is_set(), within=5)
        await leads(one, two)
        await until(lambda: (office.at_work, office.terms) == (1, 2))


async def test_a_fault_of_its_work_ends_a_term_and_no_more(settings: Settings) -> None:
    office = Office()
    office.fault = ExceptionGroup("loops", [ValueError("it must not")])
    async with candidate(settings, office) as only:
        await until(lambda: office.terms == 2)
        await leads(only)


@pytest.mark.parametrize("how", ["stopped", "cut off"])
async def test_the_standby_goes_on_with_the_leaders_work(
    settings: Settings, database: Database, redis: Redis, waker: Waker, how: str
) -> None:
    await register(database)
    schedulers = [Scheduler(settings) for _ in range(2)]
    for scheduler in schedulers:
        await scheduler.start()
    try:
        first = await leads(*(scheduler.leader for scheduler in schedulers))
        leading, standby = schedulers if schedulers[0].leader is first else reversed(schedulers)
        await promoted_and_delivered(database, redis, waker)
        if how == "stopped":
            await leading.stop()
            schedulers.remove(leading)
            await leads(standby.leader)
        else:
            await terminate_leader(database)
        await promoted_and_delivered(database, redis, waker)
    finally:
        for scheduler in schedulers:
            await scheduler.stop()


async def promoted_and_delivered(database: Database, redis: Redis, waker: Waker) -> None:
    """Sees a scheduled job through to its worker's queue."""
    job = await submit(database, schedule_time=datetime.now(UTC) + timedelta(hours=1))
    await set_column(database, job.id, "due_time = now()")
    waker.ring(Topic.JOBS)

    async def delivered() -> bool:
        return await redis.zscore(queue_key("pool"), f"{job.id}:1") is not None

    await until(delivered)
    assert (await read_job(database, job.id)).state is JobState.QUEUED

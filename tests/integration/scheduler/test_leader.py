"""One scheduler leads, and the others are standbys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.leadership import give_up_lead, renew_lead, take_lead
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from headrace_scheduler import leader
from headrace_scheduler.leader import Leader
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.service import Scheduler
from headrace_scheduler.timing import Timing
from support.jobs import read_job, set_column, submit
from support.leading import lead, lose_lead
from support.proxy import Proxy
from support.queues import queue_of
from support.scraping import scrape
from support.until import until
from support.workers import register

FAST_STANDBY = Timing(standby=(0.02, 0.02))


class RecordedWork:
    """Work that runs for a term; it records the terms and the number of active leaders."""

    def __init__(self) -> None:
        self.active = 0
        self.terms: list[int] = []
        self.gauges = Gauges()
        self.fault: Exception | None = None

    async def work(self, term: int) -> None:
        self.active += 1
        self.terms.append(term)
        try:
            if self.fault is not None:
                fault, self.fault = self.fault, None
                raise fault
            await asyncio.Event().wait()
        finally:
            self.active -= 1


@asynccontextmanager
async def candidate(
    settings: Settings, recorded: RecordedWork, *, lease: float = FAST_STANDBY.lease
) -> AsyncIterator[Leader]:
    database = Database(settings, application="test-candidate")
    contender = Leader(
        database=database,
        work=recorded.work,
        gauges=recorded.gauges,
        timing=replace(FAST_STANDBY, lease=lease),
    )
    running = asyncio.create_task(contender.run())
    try:
        yield contender
    finally:
        async with asyncio.timeout(60):
            await end_tasks(running)
        await database.close()
    assert running.cancelled(), running.exception()


async def until_one_leads(*leaders: Leader) -> Leader:
    """Wait until one of `leaders` leads; return it."""
    leading = await until(lambda: next((one for one in leaders if one.leading.is_set()), None))
    assert leading is not None
    return leading


async def test_only_one_of_several_schedulers_leads(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = RecordedWork()
    attempts = []

    async def take_and_count(*args: Any, **options: Any) -> int | None:
        attempts.append(args)
        return await take_lead(*args, **options)

    monkeypatch.setattr(leader, "take_lead", take_and_count)
    async with AsyncExitStack() as stack:
        candidates = [
            await stack.enter_async_context(candidate(settings, recorded)) for _ in range(3)
        ]
        await until_one_leads(*candidates)
        # The standbys keep trying.
        await until(lambda: len(attempts) > 20)
        assert sum(one.leading.is_set() for one in candidates) == 1
        assert (recorded.active, recorded.terms) == (1, [1])
    assert recorded.active == 0


async def test_standby_takes_over_at_once_when_the_leader_stops(settings: Settings) -> None:
    recorded = RecordedWork()
    async with AsyncExitStack() as first:
        await until_one_leads(
            await first.enter_async_context(candidate(settings, recorded, lease=3600))
        )
        async with candidate(settings, recorded) as standby:
            assert not standby.leading.is_set()
            await first.aclose()
            # The lease lasts an hour, so the leader must have released it.
            await until_one_leads(standby)
            await until(lambda: (recorded.active, recorded.terms) == (1, [1, 2]))
            assert (recorded.gauges.leading, recorded.gauges.term) == (True, 2)
        assert recorded.gauges == Gauges(leading=False, term=2)


async def test_leader_renews_its_lease(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = RecordedWork()
    renewals = []

    async def renew_and_count(*args: Any, **options: Any) -> None:
        await renew_lead(*args, **options)
        renewals.append(options)

    monkeypatch.setattr(leader, "renew_lead", renew_and_count)
    async with candidate(settings, recorded, lease=4.5) as first:
        await until_one_leads(first)
        async with candidate(settings, recorded) as standby:
            # A lease lasts for three renewal intervals, so the fourth renewal proves that it was
            # extended.
            await until(lambda: len(renewals) == 4)
            assert not standby.leading.is_set()
            assert (recorded.active, recorded.terms) == (1, [1])


async def test_leader_with_a_refused_renewal_stops(settings: Settings, database: Database) -> None:
    # The leader renews after each third of the lease. On a busy machine, a shorter lease could
    # lapse before a renewal.
    recorded, other_holder = RecordedWork(), uuid4()
    async with candidate(settings, recorded, lease=9.0) as contender:
        await until_one_leads(contender)
        # Another scheduler takes the lead, as after a suspension of this one.
        await lose_lead(database)
        async with database.statement() as connection:
            await take_lead(connection, holder=other_holder, lease=timedelta(hours=1))
        await until(lambda: not contender.leading.is_set())
        assert (recorded.active, recorded.gauges.stale_writes) == (0, 1)
        # The scheduler is a standby until it leads again.
        async with database.statement() as connection:
            await give_up_lead(connection, holder=other_holder)
        await until_one_leads(contender)
        assert recorded.terms == [1, 3]


async def test_leader_that_cannot_renew_stops_before_lease_ends(settings: Settings) -> None:
    lease = 3.0
    proxy = Proxy(settings.postgresql_url)
    await proxy.start()
    cut_off = settings.model_copy(update={"database_url": SecretStr(proxy.url)})
    clock = asyncio.get_running_loop().time
    recorded, recorded_next = RecordedWork(), RecordedWork()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(proxy.cut)
        first = await stack.enter_async_context(candidate(cut_off, recorded, lease=lease))
        await until_one_leads(first)
        standby = await stack.enter_async_context(candidate(settings, recorded_next, lease=lease))
        proxy.hold()
        paused_at = clock()
        await until(lambda: not recorded.active)
        assert clock() - paused_at < lease
        assert not standby.leading.is_set()
        await until_one_leads(standby)
        # The held statements arrive now, and the database refuses them.
        proxy.release()
        await asyncio.sleep(lease / 2)
        assert standby.leading.is_set()
        assert (recorded.active, recorded_next.active, recorded_next.terms) == (0, 1, [2])


async def test_error_in_the_work_ends_only_its_term(settings: Settings) -> None:
    recorded = RecordedWork()
    recorded.fault = ExceptionGroup("loops", [ValueError("a fault in the work")])
    # The next term starts at once, although the lease is long.
    async with candidate(settings, recorded, lease=3600) as contender:
        await until(lambda: recorded.terms == [1, 2])
        await until_one_leads(contender)


@pytest.mark.parametrize("how", ["stopped", "replaced"])
async def test_standby_continues_the_leaders_work(
    settings: Settings, database: Database, redis: Redis, bus: WakeBus, how: str
) -> None:
    await register(database)
    with_metrics = settings.model_copy(update={"scheduler_metrics_address": "127.0.0.1:0"})
    schedulers = [Scheduler(with_metrics, timing=FAST_STANDBY) for _ in range(2)]
    for scheduler in schedulers:
        await scheduler.start()
    try:
        first = await until_one_leads(*(scheduler.leader for scheduler in schedulers))
        leading, standby = schedulers if schedulers[0].leader is first else reversed(schedulers)
        await submit_and_wait_for_delivery(database, redis, bus)
        assert (await scrape(leading.metrics_port))["headrace_leader_term"] == 1
        if how == "stopped":
            await leading.stop()
            schedulers.remove(leading)
            await until_one_leads(standby.leader)
            assert (await scrape(standby.metrics_port))["headrace_leading"] == 1
        else:
            await lose_lead(database)
            await until(lambda: not leading.leader.leading.is_set())
            # The refused statement is either a renewal or a loop's statement.
            seen = await scrape(leading.metrics_port)
            assert seen["headrace_stale_writes_refused_total"] >= 1
        await submit_and_wait_for_delivery(database, redis, bus)
        assert await lead(database) == 2
    finally:
        for scheduler in schedulers:
            await scheduler.stop()


async def submit_and_wait_for_delivery(database: Database, redis: Redis, bus: WakeBus) -> None:
    """Submit a scheduled job; wait until it is promoted and delivered."""
    job = await submit(database, schedule_time=datetime.now(UTC) + timedelta(hours=1))
    await set_column(database, job.id, "due_time = now()")
    bus.publish(Topic.JOBS)

    async def is_delivered() -> bool:
        return await redis.zscore(await queue_of(redis, "pool"), f"{job.id}:1") is not None

    await until(is_delivered)
    assert (await read_job(database, job.id)).state is JobState.QUEUED

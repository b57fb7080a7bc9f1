"""Hand-off: the gateway delivers committed jobs to pools without the scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from headrace_core.delivery import Deliverer
from headrace_core.domain.job import Job, rank_of
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus, WakeSubscription
from headrace_gateway.api.handoff import HandOff
from headrace_gateway.api.registrations import Registrations
from headrace_scheduler.loops.dispatch import Dispatch
from support.jobs import submit, submit_many
from support.leading import lead
from support.listening import QUIET_PERIOD_S, WAKE_UP_TIMEOUT_S, listening
from support.queues import queue_of
from support.until import until
from support.workers import delivery, register, start

POOL = "pool"


@asynccontextmanager
async def hand_off_with_pools(
    settings: Settings, database: Database, bus: WakeBus
) -> AsyncIterator[HandOff]:
    """Run a hand-off after it has read the live pools."""
    registrations = Registrations(database=database)
    hand_off = HandOff(settings=settings, database=database, registrations=registrations, bus=bus)
    await until(registrations.pools)
    yield hand_off
    await hand_off.close()


@pytest.fixture
async def hand_off(settings: Settings, database: Database, bus: WakeBus) -> AsyncIterator[HandOff]:
    """A hand-off to a pool with one worker and two slots."""
    await register(database, slots=2)
    async with hand_off_with_pools(settings, database, bus) as hand_off:
        yield hand_off


@pytest.fixture
async def scheduler_wake_ups(
    settings: Settings, database: Database
) -> AsyncIterator[WakeSubscription]:
    """A scheduler's wake-ups for waiting jobs."""
    async with listening(settings, database, Topic.JOBS) as wake:
        yield wake


async def queue_entries(redis: Redis) -> list[str]:
    return [name.decode() for name in await redis.zrange(await queue_of(redis, POOL), 0, -1)]


def entry_names(*jobs: Job) -> list[str]:
    return [str(delivery(job)) for job in jobs]


async def test_idle_pool_receives_a_job_directly(
    database: Database, hand_off: HandOff, scheduler_wake_ups: WakeSubscription, redis: Redis
) -> None:
    lower_priority, higher_priority = await submit(database), await submit(database, priority=10)
    for job in (lower_priority, higher_priority):
        hand_off.offer([job])

        async def is_queued(job: Job = job) -> bool:
            return entry_names(job)[0] in await queue_entries(redis)

        await until(is_queued)
    # The score is the rank, as for deliveries by the scheduler.
    assert await queue_entries(redis) == entry_names(higher_priority, lower_priority)
    assert await redis.zscore(
        await queue_of(redis, POOL), entry_names(lower_priority)[0]
    ) == pytest.approx(rank_of(lower_priority))
    assert not await scheduler_wake_ups.wait(QUIET_PERIOD_S)


async def test_jobs_without_hand_off_wake_the_scheduler(
    database: Database,
    hand_off: HandOff,
    scheduler_wake_ups: WakeSubscription,
    redis: Redis,
    subtests: pytest.Subtests,
) -> None:
    start_time = datetime.now(UTC) + timedelta(days=1)
    cases = {
        "unserved type": [await submit(database, type="unserved")],
        "scheduled job": [await submit(database, schedule_time=start_time)],
        "another tenant": [await submit(database, tenant="another")],
        "many jobs": await submit_many(database, 17),
    }
    for name, jobs in cases.items():
        with subtests.test(name):
            hand_off.offer(jobs)
            assert await scheduler_wake_ups.wait(WAKE_UP_TIMEOUT_S) == {Topic.JOBS}
            assert await queue_entries(redis) == []


async def test_pool_with_waiting_jobs_receives_nothing(
    database: Database, hand_off: HandOff, scheduler_wake_ups: WakeSubscription, redis: Redis
) -> None:
    first = await submit_many(database, 4)
    hand_off.offer(first)

    async def is_full() -> bool:
        return len(await queue_entries(redis)) == 4

    await until(is_full)
    hand_off.offer([await submit(database)])
    assert await scheduler_wake_ups.wait(WAKE_UP_TIMEOUT_S) == {Topic.JOBS}
    assert await queue_entries(redis) == entry_names(*first)


async def test_pool_without_a_free_slot_receives_nothing(
    settings: Settings,
    database: Database,
    bus: WakeBus,
    scheduler_wake_ups: WakeSubscription,
    redis: Redis,
) -> None:
    busy = await register(database, slots=1)
    await start(database, busy, await submit(database))
    async with hand_off_with_pools(settings, database, bus) as hand_off:
        hand_off.offer([await submit(database)])
        assert await scheduler_wake_ups.wait(WAKE_UP_TIMEOUT_S) == {Topic.JOBS}
    assert await queue_entries(redis) == []


async def test_pool_with_the_most_free_slots_receives_the_job(
    settings: Settings, database: Database, bus: WakeBus, redis: Redis
) -> None:
    await register(database, pool="small", slots=1)
    await register(database, pool=POOL, slots=5)
    jobs = await submit_many(database, 3)
    async with hand_off_with_pools(settings, database, bus) as hand_off:
        hand_off.offer(jobs)

        async def is_queued() -> bool:
            return len(await queue_entries(redis)) == 3

        await until(is_queued)


async def test_prefetch_of_zero_disables_the_hand_off(
    settings: Settings,
    database: Database,
    bus: WakeBus,
    scheduler_wake_ups: WakeSubscription,
    redis: Redis,
) -> None:
    # Without prefetch, the Redis queue of a busy pool may be empty.
    await register(database)
    no_prefetch = settings.model_copy(update={"dispatch_prefetch": 0})
    hand_off = HandOff(
        settings=no_prefetch,
        database=database,
        registrations=Registrations(database=database),
        bus=bus,
    )
    hand_off.offer([await submit(database)])
    assert await scheduler_wake_ups.wait(WAKE_UP_TIMEOUT_S) == {Topic.JOBS}
    assert await queue_entries(redis) == []
    await hand_off.close()


async def test_hand_off_without_redis_wakes_the_scheduler(
    settings: Settings, database: Database, scheduler_wake_ups: WakeSubscription
) -> None:
    without_redis = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    bus = WakeBus(without_redis, database)
    await bus.start()
    await register(database)
    async with hand_off_with_pools(without_redis, database, bus) as hand_off:
        for _ in range(2):
            hand_off.offer([await submit(database)])
            assert await scheduler_wake_ups.wait(WAKE_UP_TIMEOUT_S) == {Topic.JOBS}
    await bus.stop()


async def test_scheduler_delivers_a_lost_hand_off(
    settings: Settings, database: Database, hand_off: HandOff, redis: Redis
) -> None:
    job = await submit(database)
    hand_off.offer([job])

    async def is_queued() -> bool:
        return bool(await queue_entries(redis))

    await until(is_queued)
    await redis.flushdb()
    deliverer = Deliverer(settings, identify=database.installation_id)
    await Dispatch(
        database=database,
        deliverer=deliverer,
        term=await lead(database),
        prefetch=0,
        redeliver_after=10,
    ).run_once()
    assert await queue_entries(redis) == entry_names(job)
    await deliverer.close()

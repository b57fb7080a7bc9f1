"""Dispatch: which jobs are delivered to which pools, and repeated deliveries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from headrace_core.delivery import Deliverer
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.job import DEFAULT_TENANT, Job
from headrace_core.domain.lifecycle import EventType
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic
from headrace_scheduler.loops.dispatch import Dispatch
from support.clock import Clock
from support.jobs import read_job, submit, submit_many
from support.leading import lead
from support.queues import queue_of
from support.workers import attempt_end, delivery, drain, lapse, register, start, write_ends


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def deliverer(settings: Settings, database: Database) -> AsyncIterator[Deliverer]:
    deliverer = Deliverer(settings, identify=database.installation_id)
    yield deliverer
    await deliverer.close()


@pytest.fixture
async def term(database: Database) -> int:
    """The current term."""
    return await lead(database)


@pytest.fixture
def dispatch(database: Database, deliverer: Deliverer, term: int, clock: Clock) -> Dispatch:
    """A new dispatch loop without prefetch."""
    return Dispatch(
        database=database,
        deliverer=deliverer,
        term=term,
        prefetch=0,
        redeliver_after=10,
        clock=clock,
    )


class PoolQueues:
    """The entries in the pool queues."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def entries(self, pool: str) -> list[AttemptKey]:
        names = await self._redis.zrange(await queue_of(self._redis, pool), 0, -1)
        return [AttemptKey.parse(name.decode()) for name in names]

    async def empty(self, pool: str) -> list[AttemptKey]:
        """Empty a queue, as a worker or FLUSHALL does."""
        taken = await self.entries(pool)
        await self._redis.delete(await queue_of(self._redis, pool))
        return taken


@pytest.fixture
def queues(redis: Redis) -> PoolQueues:
    return PoolQueues(redis)


def deliveries(*jobs: Job) -> list[AttemptKey]:
    return [delivery(job) for job in jobs]


async def test_jobs_are_delivered_by_priority_within_free_slots(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    worker_id = await register(database, slots=3)
    low, first, second, high, highest = [
        await submit(database, priority=priority) for priority in (-5, 0, 0, 5, 50)
    ]
    assert await dispatch.run_once() > 0
    assert await queues.empty("pool") == deliveries(highest, high, first)
    # No other job is delivered while these jobs are unclaimed or running.
    await dispatch.run_once()
    assert await queues.entries("pool") == []
    await start(database, worker_id, highest, high, first)
    await dispatch.run_once()
    assert await queues.entries("pool") == []
    # A slot is free again.
    await write_ends(database, worker_id, attempt_end(high.id, 1, EventType.SUCCEEDED))
    await dispatch.run_once()
    assert await queues.empty("pool") == deliveries(second)
    await write_ends(database, worker_id, attempt_end(first.id, 1, EventType.SUCCEEDED))
    await dispatch.run_once()
    assert await queues.empty("pool") == deliveries(low)


async def test_prefetch_keeps_every_worker_supplied(
    database: Database, deliverer: Deliverer, queues: PoolQueues, term: int
) -> None:
    dispatch = Dispatch(
        database=database, deliverer=deliverer, term=term, prefetch=4, redeliver_after=10
    )
    await register(database, slots=3)
    await register(database, slots=2)
    await submit_many(database, 30)
    await dispatch.run_once()
    assert len(await queues.entries("pool")) == 3 + 2 + 2 * 4


async def test_retry_is_delivered_as_the_next_attempt(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    worker_id = await register(database)
    job = await submit(database)
    await dispatch.run_once()
    assert await queues.empty("pool") == deliveries(job)
    await start(database, worker_id, job)
    await write_ends(database, worker_id, attempt_end(job.id, 1, EventType.INTERRUPTED))
    await dispatch.run_once()
    assert await queues.empty("pool") == [AttemptKey(job.id, 2)]


async def test_unclaimed_delivery_is_repeated_after_the_interval(
    database: Database, dispatch: Dispatch, queues: PoolQueues, clock: Clock
) -> None:
    worker_id = await register(database, slots=2)
    lost, claimed = await submit_many(database, 2)
    await dispatch.run_once()
    assert await queues.empty("pool") == deliveries(lost, claimed)
    await start(database, worker_id, claimed)
    for _ in range(2):
        clock.now += 5
        await dispatch.run_once()
        assert await queues.entries("pool") == []
    clock.now += 0.1
    await dispatch.run_once()
    assert await queues.empty("pool") == deliveries(lost)
    # The redelivery interval starts again.
    clock.now += 5
    await dispatch.run_once()
    assert await queues.entries("pool") == []
    clock.now += 5.1
    await dispatch.run_once()
    assert await queues.empty("pool") == deliveries(lost)


async def test_new_leader_repeats_unclaimed_deliveries(
    database: Database, dispatch: Dispatch, deliverer: Deliverer, queues: PoolQueues, term: int
) -> None:
    await register(database)
    jobs = await submit_many(database, 5)
    await dispatch.run_once()
    after = Dispatch(
        database=database, deliverer=deliverer, term=term, prefetch=0, redeliver_after=10
    )
    await after.run_once()
    # The second delivery replaces the first.
    assert await queues.entries("pool") == deliveries(*jobs)


async def test_flushed_deliveries_are_repeated(
    database: Database, dispatch: Dispatch, queues: PoolQueues, clock: Clock, redis: Redis
) -> None:
    await register(database)
    jobs = await submit_many(database, 5)
    await dispatch.run_once()
    await redis.flushdb()
    clock.now += 10.1
    await dispatch.run_once()
    assert await queues.entries("pool") == deliveries(*jobs)


async def test_pool_without_live_workers_receives_nothing(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    await lapse(database, await register(database, "a", pool="lapsed"))
    await drain(database, await register(database, "b", pool="draining"))
    await register(database, "c", pool="live")
    a, b, c = [await submit(database, type=name) for name in ("a", "b", "c")]
    await dispatch.run_once()
    assert await queues.entries("lapsed") == await queues.entries("draining") == []
    assert await queues.entries("live") == deliveries(c)
    # A new worker that serves these jobs receives them at once.
    await register(database, "a", "b", pool="late")
    await dispatch.run_once()
    assert await queues.entries("late") == deliveries(a, b)


async def test_unclaimed_delivery_of_a_lost_pool_is_moved_at_once(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    lost_worker = await register(database, pool="lost")
    job = await submit(database)
    await dispatch.run_once()
    assert await queues.entries("lost") == deliveries(job)
    await lapse(database, lost_worker)
    await register(database, pool="other")
    await dispatch.run_once()
    assert await queues.entries("other") == deliveries(job)


async def test_unserved_jobs_do_not_block_other_jobs(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    await register(database, "served", queues=["fast"], slots=1)
    for fields in ({"type": "unserved"}, {"type": "served", "queue": "slow"}):
        await submit_many(database, 1200, priority=100, **fields)
    job = await submit(database, type="served", queue="fast", priority=-100)
    await dispatch.run_once()
    assert await queues.entries("pool") == deliveries(job)


async def test_jobs_of_a_full_pool_do_not_block_other_pools(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    busy = await register(database, "slow", pool="full", slots=1)
    await start(database, busy, await submit(database, type="slow"))
    await register(database, "quick", pool="free", slots=2)
    await submit_many(database, 1200, type="slow", priority=100)
    quick = await submit_many(database, 3, type="quick")
    await dispatch.run_once()
    assert await queues.entries("full") == []
    assert await queues.entries("free") == deliveries(*quick[:2])


async def test_pool_that_becomes_full_does_not_block_other_pools(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    await register(database, "slow", pool="small", slots=1)
    await register(database, "quick", pool="large", slots=50)
    slow = await submit_many(database, 200, type="slow", priority=100)
    quick = await submit_many(database, 60, type="quick")
    # A single run reaches the quick jobs, although many slow jobs precede them.
    await dispatch.run_once()
    assert await queues.entries("small") == deliveries(slow[0])
    assert await queues.entries("large") == deliveries(*quick[:50])


async def test_many_free_slots_are_filled_in_one_run(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    await register(database, slots=2500)
    jobs = await submit_many(database, 2600)
    await dispatch.run_once()
    assert await queues.entries("pool") == deliveries(*jobs[:2500])


async def test_pools_share_a_lane_by_free_slots(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    await register(database, "a", "b", pool="one", slots=6)
    await register(database, "a", pool="two", slots=2)
    jobs = await submit_many(database, 10, type="a")
    await dispatch.run_once()
    one, two = await queues.entries("one"), await queues.entries("two")
    assert (len(one), len(two)) == (6, 2)
    assert set(one + two) == set(deliveries(*jobs[:8]))


async def test_jobs_are_delivered_only_to_workers_of_their_tenant(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    await register(database, pool="ours")
    await register(database, pool="theirs", tenant="another")
    ours, theirs = await submit(database), await submit(database, tenant="another")
    await dispatch.run_once()
    assert await queues.entries("ours") == deliveries(ours)
    assert await queues.entries("theirs") == deliveries(theirs)


async def test_end_of_an_undelivered_job_frees_its_slot(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    await register(database, slots=1)
    first, second = await submit_many(database, 2)
    await dispatch.run_once()
    async with database.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=first.id)
    await dispatch.run_once()
    assert await queues.empty("pool") == deliveries(first, second)


async def test_scheduled_job_is_not_delivered(
    database: Database, dispatch: Dispatch, queues: PoolQueues
) -> None:
    await register(database)
    await submit(database, schedule_time=datetime.now(UTC) + timedelta(hours=1))
    await dispatch.run_once()
    assert await queues.entries("pool") == []


async def test_delivery_that_failed_without_redis_is_repeated(
    settings: Settings, database: Database, deliverer: Deliverer, queues: PoolQueues, term: int
) -> None:
    unreachable = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    unreachable_deliverer = Deliverer(unreachable, identify=database.installation_id)
    dispatch = Dispatch(
        database=database,
        deliverer=unreachable_deliverer,
        term=term,
        prefetch=0,
        redeliver_after=10,
    )
    await register(database)
    job = await submit(database)
    with pytest.raises(Unavailable):
        await dispatch.run_once()
    dispatch._deliverer = deliverer
    await dispatch.run_once()
    assert await queues.entries("pool") == deliveries(job)
    assert (await read_job(database, job.id)).seq == 1
    await unreachable_deliverer.close()


async def test_freed_slot_wakes_dispatch_only_while_jobs_wait(
    database: Database, dispatch: Dispatch
) -> None:
    await register(database, slots=2)
    await submit_many(database, 2)
    await dispatch.run_once()
    assert not dispatch.accepts(Topic.SLOTS)
    await submit(database)
    await dispatch.run_once()
    assert dispatch.accepts(Topic.SLOTS)


async def test_freed_slot_wakes_dispatch_while_any_pool_is_full(
    database: Database, dispatch: Dispatch
) -> None:
    busy = await register(database, "slow", pool="full", slots=1)
    await start(database, busy, await submit(database, type="slow"))
    await register(database, "quick", pool="free", slots=2)
    await submit(database, type="slow")
    await dispatch.run_once()
    assert dispatch.accepts(Topic.SLOTS)


async def test_pause_grows_with_the_number_of_deliveries(
    database: Database, dispatch: Dispatch, clock: Clock
) -> None:
    await register(database, slots=400)
    pauses = []
    for count in (1, 50, 300):
        await submit_many(database, count)
        clock.now += 0.01
        await dispatch.run_once()
        pauses.append(dispatch.pause)
    assert pauses == sorted(set(pauses))
    # Runs without deliveries keep the longest pause.
    for _ in range(9):
        await dispatch.run_once()
    assert dispatch.pause == max(pauses)

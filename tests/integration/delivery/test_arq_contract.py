"""What we rely on of arq 0.28: one test for each, so that another version shows what it changes."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

import arq.constants
import arq.jobs
import msgspec
import pytest
from arq.connections import ArqRedis
from arq.worker import Worker, func
from redis.asyncio import Redis

from headrace_core.delivery import BatchWorker, Deliverer
from headrace_core.delivery.keys import (
    EXPIRE_MS,
    FUNCTION,
    connect,
    deserialize,
    serialize,
)
from headrace_core.domain.attempt import AttemptKey
from headrace_core.runtime.settings import Settings
from support.crew import POOL, QUEUE, Crew, at_work, some
from support.until import until

NAME = str(some(1)[0])


def now_ms() -> float:
    return time.time() * 1000


@pytest.fixture
async def arq_redis(settings: Settings) -> AsyncIterator[ArqRedis]:
    client = connect(settings)
    yield client
    await client.aclose()
    await client.connection_pool.disconnect()


def stock_worker(arq_redis: ArqRedis, ran: list[str]) -> Worker:
    """The worker of arq itself worker, on a pool's queue, until that is empty."""

    async def run(ctx: dict[Any, Any], name: str) -> None:
        assert ctx["job_id"] == name
        ran.append(name)

    return Worker(
        functions=[func(run, name=FUNCTION)],
        queue_name=QUEUE,
        redis_pool=arq_redis,
        burst=True,
        handle_signals=False,
        poll_delay=0.01,
        keep_result=0,
        job_serializer=serialize,
        job_deserializer=deserialize,
        log_results=False,
    )


def test_it_is_the_version_that_was_probed() -> None:
    assert version("arq") == "0.28.0"


async def test_what_stock_arq_enqueues_is_taken(settings: Settings, arq_redis: ArqRedis) -> None:
    crew = Crew()
    deliveries = some(3)
    async with at_work(settings.model_copy(update={"redis_timeout": 0.4}), crew):
        for delivery in deliveries:
            job = await arq_redis.enqueue_job(
                FUNCTION,
                str(delivery),
                _job_id=str(delivery),
                _queue_name=QUEUE,
            )
            assert job is not None
        await crew.until_started(*deliveries)

        async def nothing_is_left() -> bool:
            return await arq_redis.keys("*") == []

        await until(nothing_is_left)


async def test_what_we_deliver_is_run_by_stock_arq(
    deliverer: Deliverer, arq_redis: ArqRedis
) -> None:
    ran: list[str] = []
    deliveries = some(5)
    ranked = [(delivery, now_ms() - 1000 + n) for n, delivery in enumerate(deliveries)]
    await deliverer.deliver(POOL, list(reversed(ranked)))
    worker = stock_worker(arq_redis, ran)
    assert await worker.run_check() == 5
    # The lowest rank comes first: arq's score is a rank of ours.
    assert ran == [str(delivery) for delivery in deliveries]
    # It leaves nothing behind but its own sign of life.
    left = {key.decode() for key in await arq_redis.keys("*")}
    assert left == {worker.health_check_key}


async def test_stock_arq_takes_a_score_for_a_time_and_we_do_not(
    settings: Settings, deliverer: Deliverer, arq_redis: ArqRedis
) -> None:
    # A job of a low priority has a rank in the future. That is why the queues are our workers'.
    [delivery] = some(1)
    await deliverer.deliver(POOL, [(delivery, now_ms() + 60_000)])
    ran: list[str] = []
    worker = stock_worker(arq_redis, ran)
    await worker._poll_iteration()
    assert ran == []
    assert not worker.tasks
    crew = Crew()
    async with at_work(settings, crew):
        await crew.until_started(delivery)


async def test_a_record_is_arqs_in_our_serialisation(deliverer: Deliverer, redis: Redis) -> None:
    [delivery] = some(1)
    before = now_ms()
    await deliverer.deliver(POOL, [(delivery, 7.5)])
    record = await redis.get(arq.constants.job_key_prefix + str(delivery))
    function, args, kwargs, job_try, enqueued_ms = arq.jobs.deserialize_job_raw(
        record, deserializer=deserialize
    )
    assert (function, tuple(args), kwargs, job_try) == (FUNCTION, (str(delivery),), {}, None)
    assert before - 1 <= enqueued_ms <= now_ms()
    # No pickle, and nothing but the id.
    assert msgspec.msgpack.decode(record)["a"] == [str(delivery)]
    assert await redis.zscore(QUEUE, str(delivery)) == 7.5


async def test_nothing_that_we_deliver_stays_for_ever(deliverer: Deliverer, redis: Redis) -> None:
    [delivery] = some(1)
    await deliverer.deliver(POOL, [(delivery, 0)])
    for key in await redis.keys("*"):
        assert 0 < await redis.pttl(key) <= EXPIRE_MS, key


def test_the_worker_has_what_ours_uses() -> None:
    assert issubclass(BatchWorker, Worker)
    for method in ("main", "close"):
        assert inspect.iscoroutinefunction(getattr(Worker, method))
        assert getattr(BatchWorker, method) is not getattr(Worker, method)
    assert isinstance(inspect.getattr_static(Worker, "pool"), property)
    parameters = inspect.signature(Worker.__init__).parameters
    assert {
        "functions",
        "queue_name",
        "redis_pool",
        "max_jobs",
        "handle_signals",
        "job_serializer",
        "job_deserializer",
    } <= set(parameters)


async def test_its_attributes_mean_what_ours_takes_them_for(
    settings: Settings, arq_redis: ArqRedis
) -> None:
    worker = stock_worker(arq_redis, [])
    assert worker.queue_name == QUEUE
    assert worker.pool is arq_redis
    assert (worker.max_jobs, worker.job_counter) == (10, 0)
    assert worker.allow_pick_jobs is True
    assert worker.tasks == {}


async def test_serialize_job_is_called_as_arq_calls_it_itself() -> None:
    assert list(inspect.signature(arq.jobs.serialize_job).parameters) == [
        "function_name",
        "args",
        "kwargs",
        "job_try",
        "enqueue_time_ms",
        "serializer",
    ]
    record = arq.jobs.serialize_job(FUNCTION, (NAME,), {}, None, 1, serializer=serialize)
    assert deserialize(record) == {"t": None, "f": FUNCTION, "a": [NAME], "k": {}, "et": 1}
    assert arq.constants.job_key_prefix == "arq:job:"


async def test_a_delivery_is_named_as_its_arq_job(deliverer: Deliverer, redis: Redis) -> None:
    [delivery] = some(1, attempt=12)
    await deliverer.deliver(POOL, [(delivery, 0)])
    [name] = await redis.zrange(QUEUE, 0, -1)
    assert AttemptKey.parse(name.decode()) == delivery

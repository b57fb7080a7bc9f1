"""The features of arq 0.28 on which Headrace relies, with one test for each.

After an upgrade of arq, the tests of the changed features fail.
"""

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
    FUNCTION_NAME,
    connect,
    deserialize,
    serialize,
)
from headrace_core.domain.attempt import AttemptKey
from headrace_core.runtime.settings import Settings
from support.until import until
from support.worker_callbacks import POOL, QUEUE, FakeCallbacks, new_keys, running_worker

NAME = str(new_keys(1)[0])


def now_ms() -> float:
    return time.time() * 1000


@pytest.fixture
async def arq_redis(settings: Settings) -> AsyncIterator[ArqRedis]:
    client = connect(settings)
    yield client
    await client.aclose()
    await client.connection_pool.disconnect()


def stock_worker(arq_redis: ArqRedis, executed: list[str], *, max_jobs: int = 10) -> Worker:
    """Return an unmodified arq worker that runs the jobs of a pool's queue until it is empty."""

    async def run(ctx: dict[Any, Any], name: str) -> None:
        assert ctx["job_id"] == name
        executed.append(name)

    return Worker(
        functions=[func(run, name=FUNCTION_NAME)],
        queue_name=QUEUE,
        redis_pool=arq_redis,
        burst=True,
        max_jobs=max_jobs,
        handle_signals=False,
        poll_delay=0.01,
        keep_result=0,
        job_serializer=serialize,
        job_deserializer=deserialize,
        log_results=False,
    )


def test_installed_arq_has_the_tested_version() -> None:
    assert version("arq") == "0.28.0"


async def test_job_enqueued_by_stock_arq_is_claimed(
    settings: Settings, arq_redis: ArqRedis
) -> None:
    callbacks = FakeCallbacks()
    deliveries = new_keys(3)
    async with running_worker(settings.model_copy(update={"redis_timeout": 0.4}), callbacks):
        for delivery in deliveries:
            job = await arq_redis.enqueue_job(
                FUNCTION_NAME,
                str(delivery),
                _job_id=str(delivery),
                _queue_name=QUEUE,
            )
            assert job is not None
        await callbacks.until_started(*deliveries)

        async def redis_is_empty() -> bool:
            return await arq_redis.keys("*") == []

        await until(redis_is_empty)


async def test_delivery_runs_on_stock_arq(deliverer: Deliverer, arq_redis: ArqRedis) -> None:
    executed: list[str] = []
    deliveries = new_keys(5)
    ranked = [(delivery, now_ms() - 1000 + n) for n, delivery in enumerate(deliveries)]
    await deliverer.deliver(POOL, list(reversed(ranked)))
    # Concurrent jobs could start in any order.
    worker = stock_worker(arq_redis, executed, max_jobs=1)
    assert await worker.run_check() == 5
    # arq's score is the rank; arq runs the lowest score first.
    assert executed == [str(delivery) for delivery in deliveries]
    # Only the worker's health key remains.
    remaining = {key.decode() for key in await arq_redis.keys("*")}
    assert remaining == {worker.health_check_key}


async def test_future_score_delays_only_stock_arq(
    settings: Settings, deliverer: Deliverer, arq_redis: ArqRedis
) -> None:
    # The rank of a low-priority job is in the future; stock arq waits until that time.
    [delivery] = new_keys(1)
    await deliverer.deliver(POOL, [(delivery, now_ms() + 60_000)])
    executed: list[str] = []
    worker = stock_worker(arq_redis, executed)
    await worker._poll_iteration()
    assert executed == []
    assert not worker.tasks
    callbacks = FakeCallbacks()
    async with running_worker(settings, callbacks):
        await callbacks.until_started(delivery)


async def test_delivery_record_has_arq_fields_as_msgpack(
    deliverer: Deliverer, redis: Redis
) -> None:
    [delivery] = new_keys(1)
    before = now_ms()
    await deliverer.deliver(POOL, [(delivery, 7.5)])
    record = await redis.get(arq.constants.job_key_prefix + str(delivery))
    function, args, kwargs, job_try, enqueued_ms = arq.jobs.deserialize_job_raw(
        record, deserializer=deserialize
    )
    assert (function, tuple(args), kwargs, job_try) == (FUNCTION_NAME, (str(delivery),), {}, None)
    assert before - 1 <= enqueued_ms <= now_ms()
    # The record is not a pickle, and its only argument is the attempt key.
    assert msgspec.msgpack.decode(record)["a"] == [str(delivery)]
    assert await redis.zscore(QUEUE, str(delivery)) == 7.5


async def test_every_redis_key_of_a_delivery_expires(deliverer: Deliverer, redis: Redis) -> None:
    [delivery] = new_keys(1)
    await deliverer.deliver(POOL, [(delivery, 0)])
    for key in await redis.keys("*"):
        assert 0 < await redis.pttl(key) <= EXPIRE_MS, key


def test_arq_worker_has_the_overridden_methods() -> None:
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


async def test_arq_worker_has_the_used_attributes(settings: Settings, arq_redis: ArqRedis) -> None:
    worker = stock_worker(arq_redis, [])
    assert worker.queue_name == QUEUE
    assert worker.pool is arq_redis
    assert (worker.max_jobs, worker.job_counter) == (10, 0)
    assert worker.allow_pick_jobs is True
    assert worker.tasks == {}


async def test_serialize_job_has_the_known_signature() -> None:
    assert list(inspect.signature(arq.jobs.serialize_job).parameters) == [
        "function_name",
        "args",
        "kwargs",
        "job_try",
        "enqueue_time_ms",
        "serializer",
    ]
    record = arq.jobs.serialize_job(FUNCTION_NAME, (NAME,), {}, None, 1, serializer=serialize)
    assert deserialize(record) == {"t": None, "f": FUNCTION_NAME, "a": [NAME], "k": {}, "et": 1}
    assert arq.constants.job_key_prefix == "arq:job:"


async def test_arq_job_id_is_the_attempt_key(deliverer: Deliverer, redis: Redis) -> None:
    [delivery] = new_keys(1, attempt=12)
    await deliverer.deliver(POOL, [(delivery, 0)])
    [name] = await redis.zrange(QUEUE, 0, -1)
    assert AttemptKey.parse(name.decode()) == delivery

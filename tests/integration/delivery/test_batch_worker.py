"""Workers receive and claim deliveries, with and without Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import structlog
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from structlog.testing import capture_logs

from headrace_core.delivery import Deliverer
from headrace_core.delivery import take as worker_module
from headrace_core.delivery.take import RedisTooOldError
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.waiting import ready_jobs
from headrace_core.store.sql.database import Database
from support.jobs import read_job, submit, submit_many
from support.until import until
from support.valkey import OwnValkey, own_valkey
from support.worker_callbacks import POOL, QUEUE, FakeCallbacks, identify, new_keys, running_worker
from support.workers import claim, delivery, register


def settings_with_slots(settings: Settings, count: int) -> Settings:
    return settings.model_copy(update={"worker_slots": count})


def settings_without_polls(settings: Settings) -> Settings:
    """Return settings with which only a delivery can wake a worker within a test."""
    return settings.model_copy(update={"redis_timeout": 300.0})


def with_ranks(deliveries: list[AttemptKey]) -> list[tuple[AttemptKey, float]]:
    return [(delivery, float(rank)) for rank, delivery in enumerate(deliveries)]


async def is_waiting(redis: Redis) -> bool:
    """Return whether a worker blocks on its queue."""
    clients = await redis.client_list()
    # The flag `b` means blocked; `cmd` alone may be an idle client's last command.
    return any(client["cmd"] == "bzmpop" and "b" in client["flags"] for client in clients)


async def until_waiting(redis: Redis) -> None:
    """Wait until a worker blocks on its queue."""
    await until(partial(is_waiting, redis))


async def test_delivery_wakes_a_waiting_worker_at_once(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    callbacks = FakeCallbacks()
    async with running_worker(settings_without_polls(settings), callbacks):
        for _ in range(3):
            await until_waiting(redis)
            [one] = new_keys(1)
            await deliverer.deliver(POOL, [(one, 0)])
            await callbacks.until_started(one)
        assert len(callbacks.started) == 3


async def test_delivery_skipped_by_a_claim_is_claimed_later(
    settings: Settings, deliverer: Deliverer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The interval is longer than the test, so the worker does not poll again.
    monkeypatch.setattr(worker_module, "_POLL_S", 1e6)
    callbacks = FakeCallbacks()
    async with running_worker(settings_without_polls(settings), callbacks):
        await until_waiting(redis)
        [one] = new_keys(1)
        callbacks.skipped_claims = 3
        await deliverer.deliver(POOL, [(one, 0)])
        await callbacks.until_started(one)
        assert callbacks.skipped_claims == 0


async def test_deliveries_wake_several_workers(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    one, other = FakeCallbacks(), FakeCallbacks()
    one.gate.clear()
    other.gate.clear()
    one_slot = settings_with_slots(settings_without_polls(settings), 1)
    async with running_worker(one_slot, one), running_worker(one_slot, other):
        await until_waiting(redis)
        deliveries = new_keys(2)
        await deliverer.deliver(POOL, with_ranks(deliveries))
        # The deliveries arrive together, and each one wakes a worker.
        await until(lambda: len(one.started) + len(other.started) == 2)
        assert len(one.started) == len(other.started) == 1


async def test_deliveries_are_claimed_in_rank_order(
    settings: Settings, deliverer: Deliverer
) -> None:
    deliveries = new_keys(50)
    shuffled = with_ranks(deliveries)
    random.Random(1).shuffle(shuffled)
    await deliverer.deliver(POOL, shuffled)
    callbacks = FakeCallbacks()
    async with running_worker(settings_with_slots(settings, 7), callbacks):
        await callbacks.until_started(*deliveries)
    assert [delivery for batch in callbacks.batches for delivery in batch] == deliveries
    assert max(map(len, callbacks.batches)) <= 7


async def test_worker_receives_no_more_deliveries_than_free_slots(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    callbacks = FakeCallbacks()
    callbacks.gate.clear()
    deliveries = new_keys(10)
    await deliverer.deliver(POOL, with_ranks(deliveries))
    async with running_worker(settings_with_slots(settings, 3), callbacks) as worker:
        await callbacks.until_started(*deliveries[:3])
        assert worker.free_slots == 0
        # The other deliveries stay in the queue for another worker.
        assert await redis.zcard(QUEUE) == 7
        callbacks.gate.set()
        await callbacks.until_started(*deliveries)
        await callbacks.until_idle()
        assert callbacks.most_running <= 3
        await until(lambda: worker.free_slots == 3)


async def test_free_slot_is_filled_at_once(settings: Settings, deliverer: Deliverer) -> None:
    deliveries = new_keys(20)
    await deliverer.deliver(POOL, with_ranks(deliveries))
    callbacks = FakeCallbacks()
    # The test would time out if the worker paused after each delivery.
    async with running_worker(settings_with_slots(settings_without_polls(settings), 1), callbacks):
        await callbacks.until_started(*deliveries)
    assert callbacks.most_running == 1


async def test_delivery_reaches_only_workers_of_its_pool(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    own_key, other = new_keys(2)
    callbacks = FakeCallbacks()
    async with running_worker(settings, callbacks):
        await deliverer.deliver("another", [(other, 0)])
        await deliverer.deliver(POOL, [(own_key, 0)])
        await callbacks.until_started(own_key)
    assert callbacks.started == [own_key]
    assert await redis.zcard(QUEUE.replace(POOL, "another")) == 1


async def test_invalid_queue_entries_are_dropped(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    [valid] = new_keys(1)
    invalid_entries = [
        b"nonsense",
        b"\xff\xfe",
        b"",
        b":1",
        f"{valid.job_id}:0",
        f"{valid.job_id}:99999999999",
    ]
    await redis.zadd(QUEUE, {name: -number for number, name in enumerate(invalid_entries)})
    await deliverer.deliver(POOL, [(valid, 0)])
    callbacks = FakeCallbacks()
    async with running_worker(settings, callbacks):
        await callbacks.until_started(valid)
    assert callbacks.started == [valid]
    assert await redis.zcard(QUEUE) == 0


async def test_repeated_delivery_is_queued_once(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    deliveries = new_keys(3)
    for _ in range(3):
        await deliverer.deliver(POOL, with_ranks(deliveries))
    assert await redis.zcard(QUEUE) == 3
    callbacks = FakeCallbacks()
    async with running_worker(settings, callbacks):
        await callbacks.until_started(*deliveries)
    assert sorted(map(str, callbacks.started)) == sorted(map(str, deliveries))


async def test_job_delivered_to_two_pools_runs_once(
    settings: Settings, deliverer: Deliverer, database: Database
) -> None:
    # The store rejects the claim of the second delivery.
    callbacks_by_worker = {pool: FakeCallbacks() for pool in ("one", "two")}
    for pool, callbacks in callbacks_by_worker.items():
        worker_id = await register(database, pool=pool)

        async def claim_or_skip(
            deliveries: list[AttemptKey], most: int, worker_id=worker_id, callbacks=callbacks
        ):
            claimed = await claim(database, worker_id, deliveries)
            return await callbacks.__class__.claim(callbacks, [job.key for job in claimed], most)

        callbacks.claim = claim_or_skip  # type: ignore[method-assign, assignment]
    jobs = [await submit(database) for _ in range(10)]
    deliveries = [delivery(job) for job in jobs]
    one, two = callbacks_by_worker.values()
    async with running_worker(settings, one, pool="one"), running_worker(settings, two, pool="two"):
        for _ in range(2):
            await asyncio.gather(
                *(deliverer.deliver(pool, with_ranks(deliveries)) for pool in callbacks_by_worker)
            )
        await until(lambda: len(one.started + two.started) == 10)
    assert sorted(map(str, one.started + two.started)) == sorted(map(str, deliveries))
    for job in jobs:
        assert (await read_job(database, job.id)).state is JobState.RUNNING


# Faults.


async def test_worker_continues_after_a_redis_flush(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    callbacks = FakeCallbacks()
    async with running_worker(settings, callbacks):
        lost, remaining = new_keys(2)
        callbacks.gate.clear()
        await deliverer.deliver(POOL, [(remaining, 0)])
        await callbacks.until_started(remaining)
        await redis.flushdb()
        # The flush does not remove the script.
        await redis.script_flush()
        [after] = new_keys(1)
        await deliverer.deliver(POOL, [(after, 0)])
        await callbacks.until_started(after)
    assert lost not in callbacks.started


async def test_worker_claims_from_postgresql_until_redis_returns(
    settings: Settings, valkey: OwnValkey
) -> None:
    own_settings = settings_with_slots(settings, 2).model_copy(
        update={"redis_url": SecretStr(valkey.url), "redis_timeout": 1.0}
    )
    deliverer = Deliverer(own_settings, identify=identify)
    callbacks = FakeCallbacks()
    async with running_worker(own_settings, callbacks):
        [first] = new_keys(1)
        await deliverer.deliver(POOL, [(first, 0)])
        await callbacks.until_started(first)

        valkey.kill()
        with pytest.raises(Unavailable):
            await deliverer.deliver(POOL, [(first, 0)])
        await callbacks.until_queried()
        keys = new_keys(5)
        callbacks.undelivered = list(keys)
        await callbacks.until_started(*keys)
        # No batch exceeds the number of slots.
        assert callbacks.most_running <= 2
        assert max(map(len, callbacks.batches)) <= 2
        assert 0 not in callbacks.queries

        await valkey.restart()

        async def is_delivered() -> bool:
            # The worker may not have reconnected yet, so the delivery waits in the queue.
            await deliverer.deliver(POOL, [(last, 0)])
            return last in callbacks.started

        [last] = new_keys(1)
        await until(is_delivered)
        queries = len(callbacks.queries)
        for _ in range(3):
            [one] = new_keys(1)
            await deliverer.deliver(POOL, [(one, 0)])
            await callbacks.until_started(one)
        assert len(callbacks.queries) == queries
    await deliverer.close()


async def test_jobs_start_despite_a_hung_redis(settings: Settings, valkey: OwnValkey) -> None:
    own_settings = settings.model_copy(
        update={"redis_url": SecretStr(valkey.url), "redis_timeout": 0.5}
    )
    callbacks = FakeCallbacks()
    async with running_worker(own_settings, callbacks):
        client: Redis = Redis.from_url(valkey.url)
        await until_waiting(client)
        # Redis executes no other command, as during a long script.
        await client.execute_command("CLIENT", "PAUSE", "60000", "ALL")
        await callbacks.until_queried()
        for _ in range(5):
            callbacks.undelivered = new_keys(1)
            await callbacks.until_started(*callbacks.undelivered)
        await client.aclose()


async def test_worker_retries_without_redis_and_postgresql(
    settings: Settings, valkey: OwnValkey
) -> None:
    own_settings = settings.model_copy(update={"redis_url": SecretStr(valkey.url)})
    callbacks = FakeCallbacks()
    callbacks.unavailable = True
    async with running_worker(own_settings, callbacks):
        valkey.kill()
        callbacks.undelivered = new_keys(1)
        await until(lambda: callbacks.failed_claims)
        callbacks.unavailable = False
        keys = new_keys(1)
        callbacks.undelivered = list(keys)
        await callbacks.until_started(*keys)


async def test_worker_retries_claims_without_postgresql(
    settings: Settings, deliverer: Deliverer
) -> None:
    callbacks = FakeCallbacks()
    callbacks.unavailable = True
    async with running_worker(settings, callbacks):
        before, after = new_keys(2)
        await deliverer.deliver(POOL, [(before, 7)])
        await until(lambda: callbacks.failed_claims > 1)
        callbacks.unavailable = False
        await deliverer.deliver(POOL, [(after, 0)])
        # The test delivers only once, so the worker must have returned the delivery after its
        # failed claim.
        await callbacks.until_started(before, after)


async def test_paused_worker_receives_nothing_until_it_resumes(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    callbacks = FakeCallbacks()
    async with running_worker(settings_without_polls(settings), callbacks) as worker:
        await until_waiting(redis)
        worker.pause()
        # The worker still blocks on the queue, so it receives the delivery and must return it.
        [one] = new_keys(1)
        await deliverer.deliver(POOL, [(one, 7)])

        async def is_returned() -> bool:
            return not await is_waiting(redis) and bool(await redis.zcard(QUEUE))

        await until(is_returned)
        assert await redis.zscore(QUEUE, str(one)) == 7
        assert callbacks.started == []
        worker.resume()
        await callbacks.until_started(one)


async def test_stopping_worker_loses_no_delivery(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    callbacks = FakeCallbacks()
    async with running_worker(settings_without_polls(settings), callbacks) as worker:
        for _ in range(20):
            await until_waiting(redis)
            [one] = new_keys(1)
            # The worker may receive the delivery before it stops.
            await asyncio.gather(deliverer.deliver(POOL, [(one, 0)]), worker.leave())
            queued_count = await redis.zcard(QUEUE)
            assert queued_count + callbacks.started.count(one) == 1
            await redis.delete(QUEUE)
            worker.resume()


@pytest.fixture
def old_redis() -> Iterator[OwnValkey]:
    """A Valkey without BZMPOP, like Redis before 7.0."""
    with own_valkey("--rename-command", "BZMPOP", "") as valkey:
        yield valkey


async def test_old_redis_is_logged_once_and_jobs_still_run(
    settings: Settings, old_redis: OwnValkey, capfd: pytest.CaptureFixture[str]
) -> None:
    callbacks = FakeCallbacks()
    own_settings = settings.model_copy(update={"redis_url": SecretStr(old_redis.url)})
    async with running_worker(own_settings, callbacks) as worker:
        await callbacks.until_queried()
        callbacks.undelivered = keys = new_keys(1)
        await callbacks.until_started(*keys)
        assert worker.without_redis
        with pytest.raises(RedisTooOldError):
            await worker.ping()
        # This Redis does not count as restored.
        await callbacks.until_queried()
    logged = "".join(capfd.readouterr())
    assert logged.count("redis_too_old") == 1
    assert "redis_found" not in logged


async def test_deliverer_without_redis_is_unavailable(
    settings: Settings, valkey: OwnValkey
) -> None:
    deliverer = Deliverer(
        settings.model_copy(update={"redis_url": SecretStr(valkey.url)}), identify=identify
    )
    await deliverer.ping()
    valkey.kill()
    for call in (deliverer.ping(), deliverer.deliver(POOL, with_ranks(new_keys(1)))):
        with pytest.raises(Unavailable) as excinfo:
            await call
        assert excinfo.value.dependency == "redis"
    await valkey.restart()
    await deliverer.ping()
    await deliverer.close()


@pytest.mark.parametrize(
    ("break_redis", "restore_redis"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
    ids=["out_of_memory", "replica"],
)
async def test_jobs_start_while_redis_rejects_writes(
    settings: Settings,
    valkey: OwnValkey,
    break_redis: tuple[str, ...],
    restore_redis: tuple[str, ...],
) -> None:
    own_settings = settings.model_copy(
        update={"redis_url": SecretStr(valkey.url), "redis_timeout": 1.0}
    )
    callbacks = FakeCallbacks()
    deliverer = Deliverer(own_settings, identify=identify)
    async with (
        running_worker(own_settings, callbacks) as worker,
        Redis.from_url(valkey.url) as client,
    ):
        await until_waiting(client)
        await client.execute_command(*break_redis)
        # Redis still responds, but accepts no delivery.
        assert await client.ping()
        with pytest.raises(Unavailable):
            await deliverer.deliver(POOL, with_ranks(new_keys(1)))
        await until(lambda: worker.without_redis)
        for _ in range(5):
            callbacks.undelivered = new_keys(1)
            await callbacks.until_started(*callbacks.undelivered)
        assert worker.without_redis

        await client.execute_command(*restore_redis)
        await until(lambda: not worker.without_redis)
        [one] = new_keys(1)
        await deliverer.deliver(POOL, [(one, 0)])
        await callbacks.until_started(one)
    await deliverer.close()


async def test_poll_finds_undelivered_jobs(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    callbacks = FakeCallbacks()
    async with running_worker(settings_with_slots(settings, 1), callbacks) as worker:
        worker._wait_s = 0.1
        await until_waiting(redis)
        keys = new_keys(20)
        callbacks.undelivered = list(keys)
        await callbacks.until_started(*keys)
        # While the worker polls PostgreSQL, it still reads its queue.
        assert not worker.without_redis
        [one] = new_keys(1)
        await deliverer.deliver(POOL, [(one, 0)])
        await callbacks.until_started(one)
    assert callbacks.most_running == 1


async def test_constant_deliveries_do_not_stop_polling(
    settings: Settings, deliverer: Deliverer
) -> None:
    callbacks = FakeCallbacks()
    keys = new_keys(50)
    callbacks.undelivered = list(keys)
    async with running_worker(settings, callbacks):

        async def all_are_found() -> bool:
            # Frequent deliveries keep the queue busy.
            [one] = new_keys(1)
            await deliverer.deliver(POOL, [(one, 0)])
            await callbacks.until_started(one)
            return set(keys) <= set(callbacks.started)

        await until(all_are_found)


async def test_workers_without_redis_claim_disjoint_jobs(
    settings: Settings, valkey: OwnValkey, database: Database
) -> None:
    own_settings = settings_with_slots(settings, 5).model_copy(
        update={"redis_url": SecretStr(valkey.url)}
    )
    jobs = await submit_many(database, 100)
    callbacks_by_worker = [FakeCallbacks() for _ in range(4)]

    async def find(limit: int) -> list[AttemptKey]:
        async with database.statement() as connection:
            ready = await ready_jobs(connection, pools=[POOL], limit=limit)
        return [job.key for job in ready]

    async with AsyncExitStack() as open_:
        valkey.kill()
        for callbacks in callbacks_by_worker:
            worker_id = await register(database, pool=POOL)

            async def claim_or_skip(
                deliveries: list[AttemptKey], most: int, worker_id=worker_id, callbacks=callbacks
            ):
                claimed = await claim(database, worker_id, deliveries, most=most)
                callbacks.batches.append(claimed)
                return [job.key for job in claimed]

            callbacks.claim = claim_or_skip  # type: ignore[method-assign, assignment]
            callbacks.find = find  # type: ignore[method-assign]
            await open_.enter_async_context(running_worker(own_settings, callbacks))
        await until(
            lambda: sum(len(callbacks.started) for callbacks in callbacks_by_worker) == len(jobs)
        )
    started = [delivery for callbacks in callbacks_by_worker for delivery in callbacks.started]
    assert sorted(map(str, started)) == sorted(str(delivery(job)) for job in jobs)
    # A claim skips jobs that another worker is claiming, so few claims return no job.
    empty = sum(not batch for callbacks in callbacks_by_worker for batch in callbacks.batches)
    assert empty <= len(callbacks_by_worker)


@pytest.fixture
def socket_valkey(tmp_path: Path) -> Iterator[tuple[OwnValkey, Path]]:
    """A Valkey that also listens on a unix socket."""
    socket = tmp_path / "v.sock"
    with own_valkey("--unixsocket", str(socket)) as valkey:
        yield valkey, socket


async def test_deliveries_arrive_through_a_unix_socket(
    settings: Settings, socket_valkey: tuple[OwnValkey, Path]
) -> None:
    valkey, socket = socket_valkey
    password = urlsplit(valkey.url).password
    own_settings = settings.model_copy(
        update={"redis_url": SecretStr(f"unix://:{password}@{socket}?db=5")}
    )
    deliverer = Deliverer(own_settings, identify=identify)
    await deliverer.ping()
    callbacks = FakeCallbacks()
    [one] = new_keys(1)
    async with running_worker(own_settings, callbacks) as worker:
        await worker.ping()
        await deliverer.deliver(POOL, [(one, 0)])
        await callbacks.until_started(one)
    await deliverer.deliver("idle", [(one, 0)])
    database: Redis = Redis.from_url(f"{valkey.url.rpartition('/')[0]}/5")
    assert await database.zcard(QUEUE.replace(POOL, "idle")) == 1
    await database.aclose()
    await deliverer.close()


async def test_installations_on_one_redis_have_separate_deliveries(
    settings: Settings, deliverer: Deliverer
) -> None:
    async def identify_other() -> UUID:
        return UUID(int=2)

    other_deliverer = Deliverer(settings, identify=identify_other)
    ours, other_key = new_keys(2)
    callbacks = FakeCallbacks()
    async with running_worker(settings, callbacks):
        await other_deliverer.deliver(POOL, [(other_key, 0)])
        await deliverer.deliver(POOL, [(ours, 1)])
        await callbacks.until_started(ours)
    assert other_key not in callbacks.started
    await other_deliverer.close()


async def test_unexpected_redis_error_falls_back_to_postgresql(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        raise TypeError("an unexpected fault")

    monkeypatch.setattr(AbstractConnection, "connect", broken)
    callbacks = FakeCallbacks()
    callbacks.undelivered = new_keys(3)
    keys = list(callbacks.undelivered)
    # A logger from an earlier test may be bound to another configuration.
    monkeypatch.setattr(worker_module, "_log", structlog.get_logger())
    with capture_logs() as logs:
        async with running_worker(settings, callbacks) as worker:
            await callbacks.until_started(*keys)
            with pytest.raises(TypeError):
                await worker.ping()
    [redis_lost] = [line for line in logs if line["event"] == "redis_lost"]
    assert isinstance(redis_lost["exc_info"], TypeError)
    deliverer = Deliverer(settings, identify=identify)
    with pytest.raises(Unavailable) as excinfo:
        await deliverer.deliver(POOL, [(keys[0], 0)])
    assert excinfo.value.dependency == "redis"

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
from support.crew import POOL, QUEUE, Crew, identify, new_keys, running_worker
from support.jobs import read_job, submit, submit_many
from support.until import until
from support.valkey import OwnValkey, own_valkey
from support.workers import claim, delivery, register


def settings_with_slots(settings: Settings, count: int) -> Settings:
    return settings.model_copy(update={"worker_slots": count})


def settings_without_polls(settings: Settings) -> Settings:
    """Return settings in which only a delivery can wake a worker in time."""
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
    crew = Crew()
    async with running_worker(settings_without_polls(settings), crew):
        for _ in range(3):
            await until_waiting(redis)
            [one] = new_keys(1)
            await deliverer.deliver(POOL, [(one, 0)])
            await crew.until_started(one)
        assert len(crew.started) == 3


async def test_delivery_skipped_by_a_claim_is_claimed_soon(
    settings: Settings, deliverer: Deliverer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker makes no other poll within the test.
    monkeypatch.setattr(worker_module, "_POLL_S", 1e6)
    crew = Crew()
    async with running_worker(settings_without_polls(settings), crew):
        await until_waiting(redis)
        [one] = new_keys(1)
        crew.skipped_claims = 3
        await deliverer.deliver(POOL, [(one, 0)])
        await crew.until_started(one)
        assert crew.skipped_claims == 0


async def test_deliveries_wake_several_workers(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    one, other = Crew(), Crew()
    one.gate.clear()
    other.gate.clear()
    one_slot = settings_with_slots(settings_without_polls(settings), 1)
    async with running_worker(one_slot, one), running_worker(one_slot, other):
        await until_waiting(redis)
        deliveries = new_keys(2)
        await deliverer.deliver(POOL, with_ranks(deliveries))
        # The deliveries arrived together, and each wakes a worker.
        await until(lambda: len(one.started) + len(other.started) == 2)
        assert len(one.started) == len(other.started) == 1


async def test_deliveries_are_claimed_in_rank_order(
    settings: Settings, deliverer: Deliverer
) -> None:
    deliveries = new_keys(50)
    shuffled = with_ranks(deliveries)
    random.Random(1).shuffle(shuffled)
    await deliverer.deliver(POOL, shuffled)
    crew = Crew()
    async with running_worker(settings_with_slots(settings, 7), crew):
        await crew.until_started(*deliveries)
    assert [delivery for batch in crew.batches for delivery in batch] == deliveries
    assert max(map(len, crew.batches)) <= 7


async def test_worker_receives_no_more_deliveries_than_free_slots(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    crew = Crew()
    crew.gate.clear()
    deliveries = new_keys(10)
    await deliverer.deliver(POOL, with_ranks(deliveries))
    async with running_worker(settings_with_slots(settings, 3), crew) as worker:
        await crew.until_started(*deliveries[:3])
        assert worker.free_slots == 0
        # The other deliveries stay in the queue for another worker.
        assert await redis.zcard(QUEUE) == 7
        crew.gate.set()
        await crew.until_started(*deliveries)
        await crew.until_idle()
        assert crew.most_running <= 3
        await until(lambda: worker.free_slots == 3)


async def test_free_slot_is_filled_at_once(settings: Settings, deliverer: Deliverer) -> None:
    deliveries = new_keys(20)
    await deliverer.deliver(POOL, with_ranks(deliveries))
    crew = Crew()
    # If the worker waited or paused after each delivery, the test would time out.
    async with running_worker(settings_with_slots(settings_without_polls(settings), 1), crew):
        await crew.until_started(*deliveries)
    assert crew.most_running == 1


async def test_delivery_reaches_only_workers_of_its_pool(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    own_key, other = new_keys(2)
    crew = Crew()
    async with running_worker(settings, crew):
        await deliverer.deliver("another", [(other, 0)])
        await deliverer.deliver(POOL, [(own_key, 0)])
        await crew.until_started(own_key)
    assert crew.started == [own_key]
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
    crew = Crew()
    async with running_worker(settings, crew):
        await crew.until_started(valid)
    assert crew.started == [valid]
    assert await redis.zcard(QUEUE) == 0


async def test_repeated_delivery_is_queued_once(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    deliveries = new_keys(3)
    for _ in range(3):
        await deliverer.deliver(POOL, with_ranks(deliveries))
    assert await redis.zcard(QUEUE) == 3
    crew = Crew()
    async with running_worker(settings, crew):
        await crew.until_started(*deliveries)
    assert sorted(map(str, crew.started)) == sorted(map(str, deliveries))


async def test_job_delivered_to_two_pools_runs_once(
    settings: Settings, deliverer: Deliverer, database: Database
) -> None:
    # The store rejects the claim of the second delivery.
    crews = {pool: Crew() for pool in ("one", "two")}
    for pool, crew in crews.items():
        worker_id = await register(database, pool=pool)

        async def take(deliveries: list[AttemptKey], most: int, worker_id=worker_id, crew=crew):
            claimed = await claim(database, worker_id, deliveries)
            return await crew.__class__.claim(crew, [job.key for job in claimed], most)

        crew.claim = take  # type: ignore[method-assign, assignment]
    jobs = [await submit(database) for _ in range(10)]
    deliveries = [delivery(job) for job in jobs]
    one, two = crews.values()
    async with running_worker(settings, one, pool="one"), running_worker(settings, two, pool="two"):
        for _ in range(2):
            await asyncio.gather(
                *(deliverer.deliver(pool, with_ranks(deliveries)) for pool in crews)
            )
        await until(lambda: len(one.started + two.started) == 10)
    assert sorted(map(str, one.started + two.started)) == sorted(map(str, deliveries))
    for job in jobs:
        assert (await read_job(database, job.id)).state is JobState.RUNNING


# Faults.


async def test_worker_continues_after_a_redis_flush(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    crew = Crew()
    async with running_worker(settings, crew):
        lost, remaining = new_keys(2)
        crew.gate.clear()
        await deliverer.deliver(POOL, [(remaining, 0)])
        await crew.until_started(remaining)
        await redis.flushdb()
        # Remove the script as well.
        await redis.script_flush()
        [after] = new_keys(1)
        await deliverer.deliver(POOL, [(after, 0)])
        await crew.until_started(after)
    assert lost not in crew.started


async def test_worker_claims_from_postgresql_until_redis_returns(
    settings: Settings, valkey: OwnValkey
) -> None:
    own_settings = settings_with_slots(settings, 2).model_copy(
        update={"redis_url": SecretStr(valkey.url), "redis_timeout": 1.0}
    )
    deliverer = Deliverer(own_settings, identify=identify)
    crew = Crew()
    async with running_worker(own_settings, crew):
        [first] = new_keys(1)
        await deliverer.deliver(POOL, [(first, 0)])
        await crew.until_started(first)

        valkey.kill()
        with pytest.raises(Unavailable):
            await deliverer.deliver(POOL, [(first, 0)])
        await crew.until_queried()
        keys = new_keys(5)
        crew.found = list(keys)
        await crew.until_started(*keys)
        # The number of slots limits every batch.
        assert crew.most_running <= 2
        assert max(map(len, crew.batches)) <= 2
        assert 0 not in crew.queries

        await valkey.restart()

        async def is_delivered() -> bool:
            # The worker may not have reconnected yet, so the delivery waits in the queue.
            await deliverer.deliver(POOL, [(last, 0)])
            return last in crew.started

        [last] = new_keys(1)
        await until(is_delivered)
        queries = len(crew.queries)
        for _ in range(3):
            [one] = new_keys(1)
            await deliverer.deliver(POOL, [(one, 0)])
            await crew.until_started(one)
        assert len(crew.queries) == queries
    await deliverer.close()


async def test_hung_redis_delays_no_job(settings: Settings, valkey: OwnValkey) -> None:
    own_settings = settings.model_copy(
        update={"redis_url": SecretStr(valkey.url), "redis_timeout": 0.5}
    )
    crew = Crew()
    async with running_worker(own_settings, crew):
        client: Redis = Redis.from_url(valkey.url)
        await until_waiting(client)
        # Block all other commands, as a long script would.
        await client.execute_command("CLIENT", "PAUSE", "60000", "ALL")
        await crew.until_queried()
        for _ in range(5):
            crew.found = new_keys(1)
            await crew.until_started(*crew.found)
        await client.aclose()


async def test_worker_retries_without_redis_and_postgresql(
    settings: Settings, valkey: OwnValkey
) -> None:
    own_settings = settings.model_copy(update={"redis_url": SecretStr(valkey.url)})
    crew = Crew()
    crew.unavailable = True
    async with running_worker(own_settings, crew):
        valkey.kill()
        crew.found = new_keys(1)
        await until(lambda: crew.failed_claims)
        crew.unavailable = False
        keys = new_keys(1)
        crew.found = list(keys)
        await crew.until_started(*keys)


async def test_worker_retries_claims_without_postgresql(
    settings: Settings, deliverer: Deliverer
) -> None:
    crew = Crew()
    crew.unavailable = True
    async with running_worker(settings, crew):
        before, after = new_keys(2)
        await deliverer.deliver(POOL, [(before, 7)])
        await until(lambda: crew.failed_claims > 1)
        crew.unavailable = False
        await deliverer.deliver(POOL, [(after, 0)])
        # The test delivers once, so the worker must have returned the delivery of its failed claim.
        await crew.until_started(before, after)


async def test_paused_worker_receives_nothing_until_it_resumes(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    crew = Crew()
    async with running_worker(settings_without_polls(settings), crew) as worker:
        await until_waiting(redis)
        worker.pause()
        # The worker still blocks on the queue, and must return the delivery that it receives.
        [one] = new_keys(1)
        await deliverer.deliver(POOL, [(one, 7)])

        async def is_returned() -> bool:
            return not await is_waiting(redis) and bool(await redis.zcard(QUEUE))

        await until(is_returned)
        assert await redis.zscore(QUEUE, str(one)) == 7
        assert crew.started == []
        worker.resume()
        await crew.until_started(one)


async def test_stopping_worker_loses_no_delivery(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    crew = Crew()
    async with running_worker(settings_without_polls(settings), crew) as worker:
        for _ in range(20):
            await until_waiting(redis)
            [one] = new_keys(1)
            # The worker may have received the delivery before it stops.
            await asyncio.gather(deliverer.deliver(POOL, [(one, 0)]), worker.leave())
            queued_count = await redis.zcard(QUEUE)
            assert queued_count + crew.started.count(one) == 1
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
    crew = Crew()
    own_settings = settings.model_copy(update={"redis_url": SecretStr(old_redis.url)})
    async with running_worker(own_settings, crew) as worker:
        await crew.until_queried()
        crew.found = keys = new_keys(1)
        await crew.until_started(*keys)
        assert worker.without_redis
        with pytest.raises(RedisTooOldError):
            await worker.ping()
        # The worker does not treat this Redis as restored.
        await crew.until_queried()
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
async def test_redis_that_rejects_writes_delays_no_job(
    settings: Settings,
    valkey: OwnValkey,
    break_redis: tuple[str, ...],
    restore_redis: tuple[str, ...],
) -> None:
    own_settings = settings.model_copy(
        update={"redis_url": SecretStr(valkey.url), "redis_timeout": 1.0}
    )
    crew = Crew()
    deliverer = Deliverer(own_settings, identify=identify)
    async with running_worker(own_settings, crew) as worker, Redis.from_url(valkey.url) as client:
        await until_waiting(client)
        await client.execute_command(*break_redis)
        # Redis still responds, but accepts no delivery.
        assert await client.ping()
        with pytest.raises(Unavailable):
            await deliverer.deliver(POOL, with_ranks(new_keys(1)))
        await until(lambda: worker.without_redis)
        for _ in range(5):
            crew.found = new_keys(1)
            await crew.until_started(*crew.found)
        assert worker.without_redis

        await client.execute_command(*restore_redis)
        await until(lambda: not worker.without_redis)
        [one] = new_keys(1)
        await deliverer.deliver(POOL, [(one, 0)])
        await crew.until_started(one)
    await deliverer.close()


async def test_poll_finds_undelivered_jobs_while_redis_works(
    settings: Settings, deliverer: Deliverer, redis: Redis
) -> None:
    crew = Crew()
    async with running_worker(settings_with_slots(settings, 1), crew) as worker:
        worker._wait_s = 0.1
        await until_waiting(redis)
        keys = new_keys(20)
        crew.found = list(keys)
        await crew.until_started(*keys)
        # Polling PostgreSQL does not stop the worker from reading its queue.
        assert not worker.without_redis
        [one] = new_keys(1)
        await deliverer.deliver(POOL, [(one, 0)])
        await crew.until_started(one)
    assert crew.most_running == 1


async def test_undelivered_jobs_are_found_between_deliveries(
    settings: Settings, deliverer: Deliverer
) -> None:
    crew = Crew()
    keys = new_keys(50)
    crew.found = list(keys)
    async with running_worker(settings, crew):

        async def all_are_found() -> bool:
            # Frequent deliveries keep the queue busy.
            [one] = new_keys(1)
            await deliverer.deliver(POOL, [(one, 0)])
            await crew.until_started(one)
            return set(keys) <= set(crew.started)

        await until(all_are_found)


async def test_workers_without_redis_share_the_jobs(
    settings: Settings, valkey: OwnValkey, database: Database
) -> None:
    own_settings = settings_with_slots(settings, 5).model_copy(
        update={"redis_url": SecretStr(valkey.url)}
    )
    jobs = await submit_many(database, 100)
    crews = [Crew() for _ in range(4)]

    async def find(limit: int) -> list[AttemptKey]:
        async with database.statement() as connection:
            ready = await ready_jobs(connection, pools=[POOL], limit=limit)
        return [job.key for job in ready]

    async with AsyncExitStack() as open_:
        valkey.kill()
        for crew in crews:
            worker_id = await register(database, pool=POOL)

            async def take(deliveries: list[AttemptKey], most: int, worker_id=worker_id, crew=crew):
                claimed = await claim(database, worker_id, deliveries, most=most)
                crew.batches.append(claimed)
                return [job.key for job in claimed]

            crew.claim = take  # type: ignore[method-assign, assignment]
            crew.find = find  # type: ignore[method-assign]
            await open_.enter_async_context(running_worker(own_settings, crew))
        await until(lambda: sum(len(crew.started) for crew in crews) == len(jobs))
    started = [delivery for crew in crews for delivery in crew.started]
    assert sorted(map(str, started)) == sorted(str(delivery(job)) for job in jobs)
    # A claim skips jobs that another worker is claiming, so almost every claim gets jobs.
    empty = sum(not batch for crew in crews for batch in crew.batches)
    assert empty <= len(crews)


@pytest.fixture
def socket_valkey(tmp_path: Path) -> Iterator[tuple[OwnValkey, Path]]:
    """A Valkey that also listens on a unix socket."""
    socket = tmp_path / "v.sock"
    with own_valkey("--unixsocket", str(socket)) as valkey:
        yield valkey, socket


async def test_unix_socket_carries_deliveries(
    settings: Settings, socket_valkey: tuple[OwnValkey, Path]
) -> None:
    valkey, socket = socket_valkey
    password = urlsplit(valkey.url).password
    own_settings = settings.model_copy(
        update={"redis_url": SecretStr(f"unix://:{password}@{socket}?db=5")}
    )
    deliverer = Deliverer(own_settings, identify=identify)
    await deliverer.ping()
    crew = Crew()
    [one] = new_keys(1)
    async with running_worker(own_settings, crew) as worker:
        await worker.ping()
        await deliverer.deliver(POOL, [(one, 0)])
        await crew.until_started(one)
    await deliverer.deliver("idle", [(one, 0)])
    database: Redis = Redis.from_url(f"{valkey.url.rpartition('/')[0]}/5")
    assert await database.zcard(QUEUE.replace(POOL, "idle")) == 1
    await database.aclose()
    await deliverer.close()


async def test_installations_share_redis_with_separate_deliveries(
    settings: Settings, deliverer: Deliverer
) -> None:
    async def identify_other() -> UUID:
        return UUID(int=2)

    other_deliverer = Deliverer(settings, identify=identify_other)
    ours, other_key = new_keys(2)
    crew = Crew()
    async with running_worker(settings, crew):
        await other_deliverer.deliver(POOL, [(other_key, 0)])
        await deliverer.deliver(POOL, [(ours, 1)])
        await crew.until_started(ours)
    assert other_key not in crew.started
    await other_deliverer.close()


async def test_unexpected_redis_error_falls_back_to_postgresql(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        raise TypeError("an unexpected fault")

    monkeypatch.setattr(AbstractConnection, "connect", broken)
    crew = Crew()
    crew.found = new_keys(3)
    keys = list(crew.found)
    # A logger that an earlier test used may be bound to another configuration.
    monkeypatch.setattr(worker_module, "_log", structlog.get_logger())
    with capture_logs() as logs:
        async with running_worker(settings, crew) as worker:
            await crew.until_started(*keys)
            with pytest.raises(TypeError):
                await worker.ping()
    [redis_lost] = [line for line in logs if line["event"] == "redis_lost"]
    assert isinstance(redis_lost["exc_info"], TypeError)
    deliverer = Deliverer(settings, identify=identify)
    with pytest.raises(Unavailable) as excinfo:
        await deliverer.deliver(POOL, [(keys[0], 0)])
    assert excinfo.value.dependency == "redis"

"""Workers: their leases and handlers."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.ids import WorkerId, uuid7
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.pool import NewWorker, ServedQueues
from headrace_core.domain.retry import RetryPolicy
from headrace_core.store.jobs.waiting import ready_jobs, served_queues
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import (
    live_handlers,
    register_worker,
    remove_lapsed,
    remove_worker,
    renew_lease,
)
from support.jobs import submit
from support.leading import lead
from support.workers import drain, lapse, register


async def renew(database: Database, worker_id: WorkerId) -> bool:
    async with database.transaction() as connection:
        return await renew_lease(
            connection, worker_id=worker_id, lease=timedelta(minutes=1), draining=False
        )


async def handlers(database: Database, tenant: str = DEFAULT_TENANT) -> dict[str, int]:
    async with database.transaction() as connection:
        live = await live_handlers(connection, tenant=tenant)
    return {handler.spec.type: handler.live_workers for handler in live}


async def test_lapsed_lease_is_not_renewed(database: Database) -> None:
    worker_id = await register(database)
    assert await renew(database, worker_id)
    await lapse(database, worker_id)
    assert not await renew(database, worker_id)
    assert not await renew(database, WorkerId(uuid7()))


async def test_lease_follows_the_database_clock(database: Database) -> None:
    worker_id = await register(database)
    await renew(database, worker_id)
    async with database.transaction() as connection:
        row = await connection.execute(
            text(
                "SELECT lease_expire_time - heartbeat_time AS lease, "
                "clock_timestamp() - heartbeat_time AS age FROM workers"
            )
        )
        lease, age = row.one()
    assert abs(lease - timedelta(minutes=1)) < timedelta(milliseconds=10)
    assert timedelta() <= age < timedelta(seconds=10)


async def test_handlers_are_listed_with_their_live_workers(
    database: Database,
) -> None:
    one = await register(database, "a", "b")
    two = await register(database, "b", "c")
    await register(database, "d", tenant="another")
    assert await handlers(database) == {"a": 1, "b": 2, "c": 1}
    await lapse(database, one)
    assert await handlers(database) == {"b": 1, "c": 1}
    async with database.transaction() as connection:
        await remove_worker(connection, worker_id=two)
    assert await handlers(database) == {}
    assert await handlers(database, "another") == {"d": 1}


async def test_newest_handler_of_a_type_is_returned(database: Database) -> None:
    newest = HandlerSpec(
        type="mail",
        queue="fast",
        description="Sends mail.",
        payload_schema='{"type":  "object"}',
        result_schema='{"type": "null"}',
        timeout=timedelta(seconds=1.5),
        retry=RetryPolicy(max_attempts=7, initial_backoff=timedelta(milliseconds=1), jitter=0),
    )
    await register(database, "mail")
    worker = NewWorker(
        id=WorkerId(uuid7()),
        tenants=[DEFAULT_TENANT],
        name="newest",
        pool="pool",
        queues=["fast"],
        slots=1,
        handlers=[newest],
    )
    async with database.transaction() as connection:
        await register_worker(connection, worker, lease=timedelta(minutes=1))
        [listed] = await live_handlers(connection, tenant=DEFAULT_TENANT)
    assert (listed.spec, listed.live_workers) == (newest, 2)


async def test_long_lapsed_workers_are_removed_with_their_handlers(
    database: Database,
) -> None:
    live, lapsed = await register(database, "a"), await register(database, "b")
    await lapse(database, lapsed)
    async with database.transaction() as connection:
        assert (
            await remove_lapsed(
                connection, term=await lead(database), older_than=timedelta(minutes=1)
            )
            == 0
        )
        assert (
            await remove_lapsed(
                connection, term=await lead(database), older_than=timedelta(seconds=1)
            )
            == 1
        )
        remaining = await connection.scalars(text("SELECT worker_id FROM worker_handlers"))
        assert remaining == [live]


async def read_served_queues(database: Database, tenant: str = DEFAULT_TENANT) -> ServedQueues:
    async with database.transaction() as connection:
        return await served_queues(connection, tenant=tenant)


async def test_worker_serves_its_queues_or_all(
    database: Database,
) -> None:
    assert "fast" not in await read_served_queues(database)
    await register(database, pool="one", queues=["fast"])
    two = await register(database, pool="two", queues=["slow", "fast"])
    assert [name in await read_served_queues(database) for name in ("fast", "slow", "any")] == [
        True,
        True,
        False,
    ]
    await lapse(database, two)
    assert "slow" not in await read_served_queues(database)
    await register(database, pool="all")
    await submit(database, queue="any")
    assert [name in await read_served_queues(database) for name in ("fast", "slow", "any")] == [
        True
    ] * 3
    assert "unheard" not in await read_served_queues(database)


async def test_draining_lapsed_or_removed_worker_serves_nothing(
    database: Database,
) -> None:
    for end in (drain, lapse, delete_worker):
        worker_id = await register(database)
        assert "default" in await read_served_queues(database)
        await end(database, worker_id)
        assert "default" not in await read_served_queues(database)


async def delete_worker(database: Database, worker_id: WorkerId) -> None:
    async with database.transaction() as connection:
        await remove_worker(connection, worker_id=worker_id)


async def test_worker_without_matching_handlers_serves_nothing(
    database: Database,
) -> None:
    await register(database, tenant="another")
    bare = await register(database)
    async with database.transaction() as connection:
        await connection.execute(
            text("DELETE FROM worker_handlers WHERE worker_id = :id"), {"id": bare}
        )
    assert "default" not in await read_served_queues(database)
    assert "default" in await read_served_queues(database, "another")


async def test_queue_is_served_if_its_jobs_would_be_dispatched(
    database: Database,
) -> None:
    # A handler's queue is only the default for its jobs; a worker with this handler serves all
    # queues.
    handler = HandlerSpec(type="test", queue="named")
    for pool, queues in (("bound", ["bound"]), ("lapsed", ["lapsed"]), ("drains", ["drains"])):
        worker = NewWorker(
            id=WorkerId(uuid7()),
            tenants=[DEFAULT_TENANT],
            name=pool,
            pool=pool,
            queues=queues,
            slots=1,
            handlers=[handler],
        )
        async with database.transaction() as connection:
            await register_worker(connection, worker, lease=timedelta(minutes=10))
        if pool == "lapsed":
            await lapse(database, worker.id)
        if pool == "drains":
            await drain(database, worker.id)
    names = ("bound", "lapsed", "drains", "named", "default")
    for name in names:
        await submit(database, queue=name)
    for pools, expected in ((("bound", "lapsed", "drains"), {"bound"}), (("all",), set(names))):
        if pools == ("all",):
            await register(database, pool="all")
        async with database.transaction() as connection:
            ready = await ready_jobs(connection, pools=pools, limit=10)
        assert {job.lane.queue for job in ready} == expected
        now = await read_served_queues(database)
        assert {name for name in names if name in now} == expected

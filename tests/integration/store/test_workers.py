"""Workers: their leases, their handlers."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.ids import WorkerId, uuid7
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.retry import RetryPolicy
from headrace_core.store.database import Database
from headrace_core.store.workers import (
    NewWorker,
    live_handlers,
    register_worker,
    remove_lapsed,
    remove_worker,
    renew_lease,
)
from support.workers import lapse, register


async def renew(database: Database, worker_id: WorkerId) -> bool:
    async with database.transaction() as connection:
        return await renew_lease(
            connection, worker_id=worker_id, lease=timedelta(minutes=1), draining=False
        )


async def handlers(database: Database, tenant: str = DEFAULT_TENANT) -> dict[str, int]:
    async with database.transaction() as connection:
        live = await live_handlers(connection, tenant=tenant)
    return {handler.spec.type: handler.live_workers for handler in live}


async def test_a_lease_is_renewed_while_it_lasts_and_never_afterwards(database: Database) -> None:
    worker_id = await register(database)
    assert await renew(database, worker_id)
    await lapse(database, worker_id)
    assert not await renew(database, worker_id)
    assert not await renew(database, WorkerId(uuid7()))


async def test_a_lease_runs_by_the_databases_clock(database: Database) -> None:
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


async def test_the_handlers_of_live_workers_are_told_with_their_number(
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


async def test_of_several_versions_the_newest_workers_is_told(database: Database) -> None:
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
        tenant=DEFAULT_TENANT,
        name="newest",
        pool="pool",
        queues=["fast"],
        slots=1,
        handlers=[newest],
    )
    async with database.transaction() as connection:
        await register_worker(connection, worker, lease=timedelta(minutes=1))
        [told] = await live_handlers(connection, tenant=DEFAULT_TENANT)
    assert (told.spec, told.live_workers) == (newest, 2)


async def test_workers_that_lapsed_long_ago_are_removed_with_their_handlers(
    database: Database,
) -> None:
    live, lapsed = await register(database, "a"), await register(database, "b")
    await lapse(database, lapsed)
    async with database.transaction() as connection:
        assert await remove_lapsed(connection, older_than=timedelta(minutes=1)) == 0
        assert await remove_lapsed(connection, older_than=timedelta(seconds=1)) == 1
        left = await connection.execute(text("SELECT worker_id FROM worker_handlers"))
        assert left.scalars().all() == [live]

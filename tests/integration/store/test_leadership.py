"""The leader's terms and leases. After its term, a leader writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from headrace_core.domain.errors import StaleTerm
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import JobState
from headrace_core.store.jobs.promote import promote_due
from headrace_core.store.jobs.prune import PruneResult, prune_jobs, remove_leftovers
from headrace_core.store.jobs.recover import expire_overdue, recover_lost
from headrace_core.store.jobs.waiting import live_pools
from headrace_core.store.leadership import give_up_lead, renew_lead, take_lead
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import remove_lapsed
from support.jobs import set_column
from support.leading import lead, lose_lead
from support.retention import until_settled
from support.states import prepare_job
from support.workers import lapse, register

LEASE = timedelta(minutes=1)


async def take_lead_as(database: Database, holder: UUID | None = None) -> int | None:
    async with database.statement() as connection:
        return await take_lead(connection, holder=holder or uuid4(), lease=LEASE)


async def renew_lease_in(database: Database, term: int) -> None:
    async with database.statement() as connection:
        await renew_lead(connection, term=term, lease=LEASE)


async def give_up_lead_as(database: Database, holder: UUID) -> None:
    async with database.statement() as connection:
        await give_up_lead(connection, holder=holder)


async def test_only_one_scheduler_becomes_leader(database: Database) -> None:
    assert await take_lead_as(database) == 1
    assert await take_lead_as(database) is None
    await renew_lease_in(database, 1)
    assert await take_lead_as(database) is None


async def test_concurrent_schedulers_have_one_leader(large_pool: Database) -> None:
    for term in (1, 2):
        terms = await asyncio.gather(*(take_lead_as(large_pool) for _ in range(20)))
        assert [one for one in terms if one is not None] == [term]
        await lose_lead(large_pool)


async def test_each_new_lead_starts_a_new_term(database: Database) -> None:
    holder = uuid4()
    assert await take_lead_as(database, holder) == 1
    await lose_lead(database)
    # The same holder also gets a new term.
    assert await take_lead_as(database, holder) == 2
    with pytest.raises(StaleTerm):
        await renew_lease_in(database, 1)
    await renew_lease_in(database, 2)


async def test_lapsed_term_is_over_even_without_a_successor(database: Database) -> None:
    assert await take_lead_as(database) == 1
    await lose_lead(database)
    with pytest.raises(StaleTerm) as refusal:
        await renew_lease_in(database, 1)
    assert refusal.value.term == 1


async def test_released_lead_can_be_taken_at_once(database: Database) -> None:
    holder = uuid4()
    await take_lead_as(database, holder)
    # A standby cannot release the lead.
    await give_up_lead_as(database, uuid4())
    await renew_lease_in(database, 1)
    await give_up_lead_as(database, holder)
    with pytest.raises(StaleTerm):
        await renew_lease_in(database, 1)
    assert await take_lead_as(database) == 2


async def test_lease_follows_the_database_clock(database: Database) -> None:
    for _ in range(2):
        async with database.statement() as connection:
            await take_lead(connection, holder=uuid4(), lease=LEASE)
            await renew_lead(connection, term=1, lease=LEASE)
            remaining = await connection.scalar(
                text("SELECT lease_expire_time - clock_timestamp() FROM leadership")
            )
        assert timedelta(seconds=50) < remaining <= LEASE


async def test_standby_that_tries_to_lead_writes_nothing(database: Database) -> None:
    await take_lead_as(database)
    async with database.transaction() as connection:
        assert await take_lead(connection, holder=uuid4(), lease=LEASE) is None
        assert await connection.scalar(text("SELECT pg_current_xact_id_if_assigned()")) is None


# The scheduler's statements.


async def create_due_job(database: Database) -> None:
    prepared = await prepare_job(database, JobState.SCHEDULED)
    await set_column(database, prepared.job.id, "due_time = now()")


async def create_lost_job(database: Database) -> None:
    await lapse(database, (await prepare_job(database, JobState.RUNNING)).worker_id)


async def create_overdue_job(database: Database) -> None:
    prepared = await prepare_job(database, JobState.QUEUED)
    await set_column(database, prepared.job.id, "deadline = now()")


async def create_ended_job(database: Database) -> None:
    prepared = await prepare_job(database, JobState.CANCELLED)
    batch = "INSERT INTO batches (id, tenant, fingerprint, jobs) VALUES (:id, :tenant, 'a', 1)"
    async with database.statement() as connection:
        await connection.execute(text(batch), {"id": prepared.job.id, "tenant": DEFAULT_TENANT})
    await set_column(database, prepared.job.id, "batch_id = id")
    await until_settled(database)


async def create_leftover_events(database: Database) -> None:
    prepared = await prepare_job(database, JobState.CANCELLED)
    async with database.statement() as connection:
        await connection.execute(
            text("INSERT INTO pruned_jobs (id, removed, seq) VALUES (:id, 1, 2)"),
            {"id": prepared.job.id},
        )


async def create_lapsed_worker(database: Database) -> None:
    await lapse(database, await register(database))


async def create_live_worker(database: Database) -> None:
    await register(database)


async def prune(connection: Connection, *, term: int) -> int:
    pruned: PruneResult = await prune_jobs(
        connection,
        term=term,
        tenant=DEFAULT_TENANT,
        state=JobState.CANCELLED,
        older_than=timedelta(),
        held_for=timedelta(),
        limit=10,
    )
    return pruned.jobs


STATEMENTS: dict[
    str, tuple[Callable[[Database], Awaitable[None]], Callable[..., Awaitable[object]]]
] = {
    "promote_due": (create_due_job, lambda c, term: promote_due(c, term=term, limit=10)),
    "recover_lost": (
        create_lost_job,
        lambda c, term: recover_lost(c, term=term, limit=10, max_losses=1),
    ),
    "expire_overdue": (
        create_overdue_job,
        lambda c, term: expire_overdue(c, term=term, limit=10, running_grace=timedelta()),
    ),
    "prune_jobs": (create_ended_job, prune),
    "remove_leftovers": (create_leftover_events, remove_leftovers),
    "remove_lapsed": (
        create_lapsed_worker,
        lambda c, term: remove_lapsed(c, term=term, older_than=timedelta()),
    ),
    "live_pools": (create_live_worker, live_pools),
}

TABLES = ("jobs", "job_events", "workers", "batches", "event_log", "pruned_jobs")


async def table_contents(database: Database) -> list[object]:
    async with database.statement() as connection:
        return [
            sorted(await connection.scalars(text(f"SELECT t::text FROM {table} t")))
            for table in TABLES
        ]


@pytest.mark.parametrize("term_end", ["lapsed", "another_leads", "released"])
@pytest.mark.parametrize("name", STATEMENTS)
async def test_statement_of_an_old_term_is_refused(
    database: Database, name: str, term_end: str
) -> None:
    prepare, run = STATEMENTS[name]
    await prepare(database)
    term = await lead(database)
    if term_end == "released":
        await give_up_lead_as(database, UUID(int=0))
    else:
        await lose_lead(database)
    if term_end == "another_leads":
        assert await take_lead_as(database) == term + 1
    before = await table_contents(database)
    async with database.statement() as connection:
        with pytest.raises(StaleTerm):
            await run(connection, term=term)
    assert await table_contents(database) == before
    # In the current term, the first run writes, and the second run has nothing left to do.
    now = await lead(database)
    async with database.statement() as connection:
        assert await run(connection, term=now)
        if name != "live_pools":
            assert not await run(connection, term=now)


async def test_statement_without_work_in_an_old_term_is_refused(
    database: Database,
) -> None:
    for _, run in STATEMENTS.values():
        async with database.statement() as connection:
            with pytest.raises(StaleTerm):
                await run(connection, term=1)


async def test_stopped_leader_in_a_transaction_blocks_no_successor(
    database: Database,
) -> None:
    await create_due_job(database)
    term = await lead(database)
    async with asyncio.timeout(60), database.transaction() as connection:
        assert await promote_due(connection, term=term, limit=10) == 1
        await lose_lead(database)
        assert await take_lead_as(database) == term + 1

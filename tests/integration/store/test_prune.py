"""Retention: ended jobs are removed with their events, unless a reader still needs them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from headrace_core.domain.errors import JobNotFound, RequestIdConflict
from headrace_core.domain.ids import BatchId, JobId, WorkerId
from headrace_core.domain.job import DEFAULT_TENANT, Job, JobSpec
from headrace_core.domain.lifecycle import TERMINAL, EventType, JobState
from headrace_core.store.event_log import BEGINNING, Place, end_of, place_of, read_range, read_start
from headrace_core.store.jobs import submit as submitting
from headrace_core.store.jobs import submit_batch as submitting_batches
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.prune import PruneResult, list_tenants, prune_jobs, remove_leftovers
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.jobs.submit_batch import submit_batch
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from support import retention
from support.histories import assert_legal
from support.jobs import history, new_batch, new_job, read_job, set_column, submit, submit_many
from support.leading import lead
from support.states import prepare_job
from support.until import until_blocked
from support.watching import foreign_transaction, open_writer
from support.workers import attempt_end, register, start, write_ends

HOUR = timedelta(hours=1)
MONTH = timedelta(days=30)


async def prune(database: Database, **options: Any) -> PruneResult:
    """Prune jobs that ended more than an hour ago."""
    return await retention.prune(database, **{"older_than": HOUR, "held_for": MONTH, **options})


async def prune_in(connection: Connection, *, term: int, limit: int = 100) -> PruneResult:
    """Prune within a transaction."""
    return await prune_jobs(
        connection,
        term=term,
        tenant=DEFAULT_TENANT,
        state=JobState.CANCELLED,
        older_than=HOUR,
        held_for=MONTH,
        limit=limit,
    )


async def prune_concurrently(database: Database, *, limit: int = 100) -> PruneResult:
    """Prune without waiting for open transactions."""
    async with database.transaction() as connection:
        return await prune_in(connection, term=await lead(database), limit=limit)


async def cancel(database: Database, *jobs: Job) -> None:
    """Cancel jobs, each in its own transaction."""
    for job in jobs:
        async with database.transaction() as connection:
            await cancel_job(connection, tenant=job.tenant, job_id=job.id)


async def backdate_end(database: Database, job: Job, by: str = "2 h") -> None:
    await set_column(database, job.id, f"end_time = end_time - interval '{by}'")


async def create_ended(database: Database, count: int, *, by: str = "2 h", **job: Any) -> list[Job]:
    """Create jobs that ended some time ago, in the order of their ends."""
    jobs = await submit_many(database, count, **job)
    await cancel(database, *jobs)
    for one in jobs:
        await backdate_end(database, one, by)
    return jobs


async def stored_ids(database: Database, table: str = "jobs", column: str = "id") -> set[JobId]:
    async with database.transaction() as connection:
        return set(await connection.scalars(text(f"SELECT {column} FROM {table}")))


async def log_start(database: Database, tenant: str = DEFAULT_TENANT) -> Place:
    async with database.transaction() as connection:
        return await read_start(connection, tenant=tenant)


async def places(database: Database, job: Job) -> list[Place]:
    return [place_of(event) for event in await history(database, job.id)]


async def subscribe(
    database: Database, name: str, place: Place, tenant: str = DEFAULT_TENANT
) -> None:
    """Create a subscription that has acknowledged all events up to a place."""
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO subscriptions (tenant, name, filter, xid, position) "
                "VALUES (:tenant, :name, '{}', CAST(CAST(:xid AS text) AS xid8), :position) "
                "ON CONFLICT (tenant, name) DO UPDATE "
                "SET xid = excluded.xid, position = excluded.position"
            ),
            {"tenant": tenant, "name": name, "xid": str(place[0]), "position": place[1]},
        )


# The pruned jobs.


@pytest.mark.parametrize("state", JobState)
async def test_only_ended_jobs_are_pruned(database: Database, state: JobState) -> None:
    prepared = await prepare_job(database, state)
    await set_column(
        database,
        prepared.job.id,
        "create_time = create_time - interval '9 d', update_time = update_time - interval '9 d', "
        "end_time = end_time - interval '9 d'",
    )
    newest = (await places(database, prepared.job))[-1]
    pruned = await prune(database)
    if state in TERMINAL:
        assert (pruned.jobs, pruned.events) == (1, prepared.job.seq)
        assert (
            await stored_ids(database)
            == await stored_ids(database, "job_events", "job_id")
            == set()
        )
        assert await log_start(database) == newest
    else:
        assert pruned == PruneResult(jobs=0, events=0, end_time=None, unread={})
        assert await stored_ids(database) == {prepared.job.id}
        assert await log_start(database) == BEGINNING


async def test_retention_counts_from_the_end(database: Database) -> None:
    old, recent = await create_ended(database, 2)
    await backdate_end(database, recent, "-90 min")
    assert (await prune(database)).jobs == 1
    assert await stored_ids(database) == {recent.id}
    with pytest.raises(JobNotFound):
        await read_job(database, old.id)


async def test_log_is_pruned_with_its_job(database: Database) -> None:
    [old] = await create_ended(database, 1)
    kept = await submit(database)
    async with database.transaction() as connection:
        for job in (old, kept):
            for last in (1, 2):
                await connection.execute(
                    text("INSERT INTO job_logs VALUES (:id, 1, :last, :tenant, '[]')"),
                    {"id": job.id, "last": last, "tenant": job.tenant},
                )
    assert (await prune(database)).jobs == 1
    assert await stored_ids(database, "job_logs", "job_id") == {kept.id}


async def test_jobs_are_pruned_in_pages_longest_ended_first(database: Database) -> None:
    jobs = await create_ended(database, 5)
    await backdate_end(database, jobs[3], "1 h")
    first = await prune(database, limit=2)
    assert await stored_ids(database) == {jobs[1].id, jobs[2].id, jobs[4].id}
    second = await prune(database, limit=2, since=first.end_time)
    assert first.end_time is not None
    assert second.end_time is not None
    assert first.end_time < second.end_time
    assert await stored_ids(database) == {jobs[4].id}
    # The next run removes jobs that ended before `since`.
    assert (await prune(database, since=second.end_time + timedelta(hours=1))).jobs == 0
    assert (await prune(database)).jobs == 1


async def test_each_tenant_has_its_own_log_start(database: Database) -> None:
    ours, theirs, empty = await asyncio.gather(
        *(submit(database, tenant=tenant) for tenant in (DEFAULT_TENANT, "other", "third"))
    )
    await cancel(database, ours, theirs)
    await backdate_end(database, ours)
    await backdate_end(database, theirs)
    async with database.transaction() as connection:
        assert sorted(await list_tenants(connection)) == ["default", "other", "third"]
    assert (await prune(database)).jobs == 1
    assert await stored_ids(database) == {theirs.id, empty.id}
    assert await log_start(database) > BEGINNING
    assert await log_start(database, "other") == BEGINNING


async def test_database_without_jobs_has_no_tenants(database: Database) -> None:
    async with database.transaction() as connection:
        assert await list_tenants(connection) == []


# The start of the log.


async def test_log_starts_after_all_pruned_events(database: Database) -> None:
    one, other, third = await create_ended(database, 3)
    # This job was created last and ended first.
    await backdate_end(database, third, "1 h")
    newest = {job.id: (await places(database, job))[-1] for job in (one, other, third)}
    assert (await prune(database, limit=1)).jobs == 1
    assert await log_start(database) == newest[third.id]
    # The start never moves back.
    assert (await prune(database, limit=1)).jobs == 1
    assert await log_start(database) == newest[third.id] > newest[one.id]
    async with database.transaction() as connection:
        page = await read_range(connection, after=BEGINNING, through=end_of(2**62), limit=10)
    assert {event.job_id for event in page.events} == {other.id}


async def test_unsettled_jobs_are_kept(database: Database) -> None:
    (settled,) = await create_ended(database, 1)
    await retention.until_settled(database)
    async with foreign_transaction(database):
        (job,) = await create_ended(database, 1)
        assert (await prune_concurrently(database)).jobs == 1
        assert await stored_ids(database) == {job.id}
    assert (await prune(database)).jobs == 1
    assert settled.id != job.id


# Subscriptions.


async def test_unacknowledged_jobs_are_kept(database: Database) -> None:
    one, other = await create_ended(database, 2)
    read = (await places(database, one))[-1]
    await subscribe(database, "ahead", end_of(2**62))
    await subscribe(database, "billing", read)
    await subscribe(database, "elsewhere", BEGINNING, tenant="other")
    assert (await prune(database)).jobs == 1
    assert await stored_ids(database) == {other.id}
    # The log starts at the acknowledged place, and the unread events are kept.
    assert await log_start(database) == read
    await subscribe(database, "billing", (await places(database, other))[-1])
    pruned = await prune(database)
    assert (pruned.jobs, pruned.unread) == (1, {})


async def test_acknowledged_place_may_be_within_a_transaction(database: Database) -> None:
    jobs = await submit_many(database, 3)
    async with database.transaction() as connection:
        for job in jobs:
            await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job.id)
    for job in jobs:
        await backdate_end(database, job)
    newest = [(await places(database, job))[-1] for job in jobs]
    assert len({xid for xid, _ in newest}) == 1
    await subscribe(database, "billing", newest[1])
    assert (await prune(database)).jobs == 2
    assert await stored_ids(database) == {jobs[2].id}
    assert await log_start(database) == newest[1]


async def test_unread_jobs_are_pruned_and_reported_after_the_hold(database: Database) -> None:
    one, other = await create_ended(database, 2)
    (late,) = await create_ended(database, 1, by="90 min")
    await subscribe(database, "billing", (await places(database, one))[-1])
    await subscribe(database, "mail", (await places(database, one))[0])
    await subscribe(database, "ahead", (await places(database, late))[-1])
    held_for = timedelta(minutes=100)
    pruned = await prune(database, held_for=held_for)
    assert (pruned.jobs, pruned.unread) == (2, {"billing": 1, "mail": 2})
    assert await stored_ids(database) == {late.id}
    assert (await prune(database, held_for=held_for)).jobs == 0
    assert other.id not in await stored_ids(database)


# Idempotency keys.


async def test_pruned_job_frees_its_request_id(database: Database) -> None:
    await create_ended(database, 1, request_id="order-17")
    assert (await prune(database)).jobs == 1
    recreated = await submit(database, request_id="order-17", type="other")
    assert await stored_ids(database) == {recreated.id}


async def test_batch_without_jobs_frees_its_request_id(database: Database) -> None:
    first, jobs, _ = await submit_two(database, "night")
    await cancel(database, *jobs)
    await backdate_end(database, jobs[0])
    await prune(database)
    assert await stored_ids(database, "batches") == {first}
    same, returned, created = await submit_two(database, "night")
    assert (same, [job.id for job in returned], created) == (first, [jobs[1].id], False)
    await backdate_end(database, jobs[1])
    await prune(database)
    assert await stored_ids(database, "batches") == set()
    second, _, created = await submit_two(database, "night")
    assert created
    assert second != first


async def submit_two(database: Database, request_id: str) -> tuple[BatchId, list[Job], bool]:
    async with database.statement() as connection:
        specs = [JobSpec(type="test", queue="default")] * 2
        return await submit_batch(connection, new_batch(specs, request_id=request_id))


async def test_job_pruned_during_a_submit_is_created_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = await create_ended(database, 1, request_id="order-17")
    statement = submitting._by_request_id

    async def prune_and_find(*args: Any) -> Any:
        await prune(database)
        return await statement(*args)

    monkeypatch.setattr(submitting, "_by_request_id", prune_and_find)
    pair = [new_job(request_id="order-17"), new_job(request_id="order-17", type="other")]
    async with database.transaction() as connection:
        stored_jobs, refused = await submit_jobs(connection, [*pair])
    assert not isinstance(stored_jobs, RequestIdConflict)
    assert stored_jobs.id == pair[0].id != old.id
    assert isinstance(refused, RequestIdConflict)


async def test_batch_pruned_during_a_submit_is_created_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_id, jobs, _ = await submit_two(database, "order-17")
    await cancel(database, *jobs)
    for job in jobs:
        await backdate_end(database, job)
    execute = Connection.execute

    async def prune_and_execute(connection: Connection, statement: Any, *args: Any) -> Any:
        if statement is submitting_batches._BATCH_JOBS:
            # The batch row has already been read.
            monkeypatch.undo()
            await prune(database)
        return await execute(connection, statement, *args)

    monkeypatch.setattr(Connection, "execute", prune_and_execute)
    batch_id, recreated, created = await submit_two(database, "order-17")
    assert created
    assert batch_id != old_id
    assert await stored_ids(database) == {job.id for job in recreated}
    assert len(recreated) == 2


async def test_submit_waits_for_a_prune_and_creates_a_job(
    database: Database,
) -> None:
    (old,) = await create_ended(database, 1, request_id="order-17")
    await retention.until_settled(database)
    async with database.transaction() as connection:
        await prune_in(connection, term=await lead(database))
        recreated = asyncio.create_task(submit(database, request_id="order-17"))
        await until_blocked(database)
    job = await recreated
    assert await stored_ids(database) == {job.id}
    assert job.id != old.id


# Concurrency.


async def test_concurrent_requeue_and_prune_have_one_winner(database: Database) -> None:
    one, other = await create_ended(database, 2)
    # The requeue holds the row lock, so the prune skips the row without waiting.
    async with database.transaction() as connection:
        await requeue_job(connection, tenant=DEFAULT_TENANT, job_id=one.id)
        assert (await prune(database)).jobs == 1
    assert await stored_ids(database) == {one.id}
    assert (await prune(database)).jobs == 0
    job = await read_job(database, one.id)
    assert job.state is JobState.QUEUED
    assert_legal(job, await history(database, one.id))
    # A requeue during the prune finds no job.
    await cancel(database, one)
    await backdate_end(database, one)
    await retention.until_settled(database)
    async with database.transaction() as connection:
        await prune_in(connection, term=await lead(database))
        late = asyncio.create_task(requeue(database, one))
        await until_blocked(database)
    with pytest.raises(JobNotFound):
        await late
    assert other.id not in await stored_ids(database)


async def requeue(database: Database, job: Job) -> None:
    async with database.transaction() as connection:
        await requeue_job(connection, tenant=DEFAULT_TENANT, job_id=job.id)


async def test_prune_delays_only_other_prunes(database: Database) -> None:
    await create_ended(database, 2)
    await retention.until_settled(database)
    async with database.transaction() as connection:
        await prune_in(connection, term=await lead(database), limit=1)
        async with asyncio.timeout(60):
            worker_id = await register(database)
            (job,) = await submit_many(database, 1)
            await start(database, worker_id, job)
            await write_ends(database, worker_id, attempt_end(job.id, 1, EventType.SUCCEEDED))
            assert len(await history(database, job.id)) == 3
            assert await log_start(database) == BEGINNING
        second = asyncio.create_task(prune_concurrently(database))
        await until_blocked(database)
    assert (await second).jobs == 1
    assert await stored_ids(database) == {job.id}


async def test_concurrent_prunes_remove_a_whole_batch(database: Database) -> None:
    _, jobs, _ = await submit_two(database, "night")
    await cancel(database, *jobs)
    for job in jobs:
        await backdate_end(database, job)
    await retention.until_settled(database)
    async with database.transaction() as connection:
        await prune_in(connection, term=await lead(database), limit=1)
        # The second prune skips the locked job, and waits before it removes the other job.
        second = asyncio.create_task(prune_concurrently(database))
        await until_blocked(database)
    assert (await second).jobs == 1
    assert await stored_ids(database) == await stored_ids(database, "batches") == set()
    assert await log_start(database) > BEGINNING


@pytest.mark.parametrize("limit", [5, 300])
async def test_concurrent_writers_and_prunes_keep_the_log_complete(
    large_pool: Database, limit: int
) -> None:
    rng = random.Random(limit)
    jobs = await submit_many(large_pool, 300)
    async with large_pool.transaction() as connection:
        for job in jobs:
            await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job.id)
        await connection.execute(text("UPDATE jobs SET end_time = end_time - interval '2 h'"))
    await retention.until_settled(large_pool)
    removed_ids: set[JobId] = set()

    async def requeue_unless_pruned(job: Job) -> None:
        try:
            await requeue(large_pool, job)
        except JobNotFound:
            removed_ids.add(job.id)

    back = rng.sample(jobs, 150)
    steps: list[Awaitable[object]] = [requeue_unless_pruned(job) for job in back]
    steps += [prune_concurrently(large_pool, limit=limit) for _ in range(20)]
    rng.shuffle(steps)
    async with asyncio.timeout(60):
        await asyncio.gather(*steps)
        while (await prune(large_pool)).jobs:
            pass
    # The requeued jobs are complete, and all others are removed.
    assert await stored_ids(large_pool) == {job.id for job in back} - removed_ids
    assert await stored_ids(large_pool, "job_events", "job_id") == await stored_ids(large_pool)
    for job_id in await stored_ids(large_pool):
        job = await read_job(large_pool, job_id)
        assert job.state is JobState.QUEUED
        assert_legal(job, await history(large_pool, job_id))


# Many events.


async def job_with_many_events(database: Database, worker_id: WorkerId, events: int) -> Job:
    """Create a job that ended two hours ago and has `events` events."""
    job = await submit(database)
    await start(database, worker_id, job)
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO job_events (job_id, seq, xid, tenant, type, state, attempt, time, "
                "output) SELECT :id, n, pg_current_xact_id(), 'default', 'output', 'running', 1, "
                "now(), '1' FROM generate_series(3, CAST(:last AS integer)) n"
            ),
            {"id": job.id, "last": events - 1},
        )
    await set_column(database, job.id, f"seq = {events - 1}, xid = pg_current_xact_id()")
    await write_ends(database, worker_id, attempt_end(job.id, 1, EventType.SUCCEEDED))
    await backdate_end(database, job)
    return await read_job(database, job.id)


async def test_prune_removes_a_bounded_number_of_events(database: Database) -> None:
    worker_id = await register(database)
    jobs = [await job_with_many_events(database, worker_id, 8) for _ in range(4)]
    pruned = await prune(database, max_events=10)
    assert (pruned.jobs, pruned.events) == (2, 16)
    assert await stored_ids(database) == {job.id for job in jobs[2:]}


async def test_events_of_a_large_job_are_removed_later(
    database: Database,
) -> None:
    worker_id = await register(database)
    job = await job_with_many_events(database, worker_id, 100)
    newest = (await places(database, job))[-1]
    (other,) = await create_ended(database, 1, by="90 min")
    pruned = await prune(database, state=JobState.SUCCEEDED, max_events=30)
    assert (pruned.jobs, pruned.events) == (1, 30)
    assert await log_start(database) == newest
    with pytest.raises(JobNotFound):
        await history(database, job.id)
    async with database.transaction() as connection:
        page = await read_range(connection, after=BEGINNING, through=end_of(2**62), limit=100)
    assert {event.job_id for event in page.events} == {other.id}

    # The next run continues after an interrupted one.
    async def remove() -> int:
        async with database.transaction() as connection:
            return await remove_leftovers(connection, term=await lead(database), max_events=30)

    async with database.transaction() as connection:
        await remove_leftovers(connection, term=await lead(database), max_events=30)
        await connection.rollback()
    assert [await remove() for _ in range(4)] == [30, 30, 10, 0]
    assert await stored_ids(database, "job_events", "job_id") == {other.id}
    assert await stored_ids(database, "pruned_jobs") == set()


# Cost.

JOB_COUNT = 20_000
# The maximum number of rows that pruning ten jobs may read, including index entries.
MAX_ROWS_READ = 400
INSERT_JOBS = """
    WITH made AS (
        INSERT INTO jobs (id, tenant, type, queue, payload, priority, labels, state, seq, rank,
            create_time, due_time, queue_time, end_time, update_time, batch_id, xid, error)
        SELECT ('01900000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid,
            'tenant ' || n % 3, 'test', 'default', '{}', 0, '{}',
            -- Failed jobs are kept longer.
            CASE n % 4 WHEN 0 THEN 'cancelled' WHEN 1 THEN 'failed' ELSE 'queued' END, 2, n,
            now(), now(), now(),
            CASE n % 4 WHEN 0 THEN now() - interval '1 d' + n * interval '1 ms'
                WHEN 1 THEN now() - interval '9 d' END, now(),
            ('01900000-0000-7000-8000-' || lpad((n % 500)::text, 12, '0'))::uuid, '10',
            CASE n % 4 WHEN 1 THEN '{"type": "E", "message": "", "retryable": false}'::json END
        FROM generate_series(1, :jobs) n
        RETURNING id, tenant, state
    )
    INSERT INTO job_events (job_id, seq, xid, writer, tenant, type, state, attempt, time)
    SELECT id, seq, '10', '10', tenant, CASE seq WHEN 1 THEN 'submitted' ELSE 'cancelled' END,
        CASE seq WHEN 1 THEN 'queued' ELSE 'cancelled' END, 0, now()
    FROM made, generate_series(1, 2) seq
"""
ROWS_READ = text("""
    SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)
    FROM pg_stat_xact_user_tables WHERE relname IN ('jobs', 'job_events', 'batches')
""")


@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize("with_lapsed_subscription", [False, True])
async def test_cost_of_a_prune_depends_on_its_page_size(
    database: Database, analyzed: bool, with_lapsed_subscription: bool
) -> None:
    term = await lead(database)
    page: dict[str, Any] = {
        "term": term,
        "tenant": "tenant 1",
        "state": JobState.CANCELLED,
        "older_than": HOUR,
        "held_for": MONTH,
        "limit": 10,
    }
    # Each statement was planned on empty tables.
    for _ in range(6):
        await prune(database, **page)
    if with_lapsed_subscription:
        await subscribe(database, "gone", BEGINNING, tenant="tenant 1")
    async with database.transaction() as connection:
        for table in ("jobs", "job_events"):
            await connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
        await connection.execute(text(INSERT_JOBS), {"jobs": JOB_COUNT})
        if analyzed:
            await connection.execute(text("ANALYZE jobs, job_events"))
    statements: list[Callable[..., Awaitable[Any]]] = [
        lambda connection: prune_jobs(connection, **page),
        list_tenants,
        lambda connection: remove_leftovers(connection, term=term),
    ]
    for statement in statements:
        async with database.transaction() as connection:
            before = await connection.scalar(ROWS_READ)
            rows = await statement(connection)
            assert await connection.scalar(ROWS_READ) - before <= MAX_ROWS_READ
        if isinstance(rows, PruneResult):
            assert rows.jobs == (0 if with_lapsed_subscription else 10)


async def test_late_event_is_pruned_by_its_raised_place(
    database: Database,
) -> None:
    """An event written by an older transaction gets the higher xid of the job's previous event."""
    early = await open_writer(database)
    job = await submit(database)
    await cancel_job(early.connection, tenant=DEFAULT_TENANT, job_id=job.id)
    await early.commit()
    await backdate_end(database, job)
    first, newest = await places(database, job)
    assert first[0] == newest[0] > early.xid
    await subscribe(database, "billing", first)
    assert (await prune(database)).jobs == 0
    await subscribe(database, "billing", newest)
    assert (await prune(database)).jobs == 1
    assert await log_start(database) == newest

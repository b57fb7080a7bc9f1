"""Dispatch reads: the ready jobs and the live pools."""

from __future__ import annotations

from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.job import DEFAULT_QUEUE, DEFAULT_TENANT
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.pool import Head, Lane, Pool, ReadyJob
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.waiting import live_pools, ready_heads, ready_jobs
from headrace_core.store.sql.database import Database
from support.jobs import submit, submit_many
from support.states import prepare_job
from support.workers import delivery, drain, lapse, register, start


async def list_ready(database: Database, *read_pools: str, limit: int = 1000) -> list[ReadyJob]:
    async with database.transaction() as connection:
        return await ready_jobs(connection, pools=read_pools or ("pool",), limit=limit)


async def read_pools(database: Database) -> dict[str, Pool]:
    async with database.transaction() as connection:
        return {pool.name: pool for pool in await live_pools(connection)}


async def test_ready_jobs_are_ordered_by_rank(database: Database) -> None:
    await register(database, "a", "b")
    low = await submit(database, type="a", priority=-10)
    first = await submit(database, type="b", queue="x")
    second = await submit(database, type="a", queue="y")
    high = await submit(database, type="b", priority=10)
    order = [high.id, first.id, second.id, low.id]
    assert [job.key.job_id for job in await list_ready(database)] == order
    assert [job.key.job_id for job in await list_ready(database, limit=2)] == order[:2]


async def test_one_priority_point_equals_a_minute_of_waiting(database: Database) -> None:
    await register(database)
    older, urgent = await submit(database), await submit(database, priority=10)
    assert [job.key.job_id for job in await list_ready(database)] == [urgent.id, older.id]
    for minutes, order in ((9, [urgent.id, older.id]), (11, [older.id, urgent.id])):
        async with database.transaction() as connection:
            await connection.execute(
                text(
                    "UPDATE jobs SET rank = :more + (SELECT rank FROM jobs WHERE id = :other) "
                    "WHERE id = :id"
                ),
                # Ten minutes for ten points, minus the time that the job has waited.
                {"id": older.id, "other": urgent.id, "more": (10 - minutes) * 60_000},
            )
        assert [job.key.job_id for job in await list_ready(database)] == order


async def test_ready_job_names_its_next_attempt(database: Database) -> None:
    await register(database)
    fresh = await submit(database)
    [job] = await list_ready(database)
    assert job.key == AttemptKey(fresh.id, 1)


async def test_only_queued_jobs_are_ready(database: Database) -> None:
    queued = [await prepare_job(database, state) for state in JobState]
    assert [job.key.job_id for job in await list_ready(database)] == [
        prepared.job.id for prepared in queued if prepared.job.state is JobState.QUEUED
    ]


async def test_unserved_jobs_are_not_ready(database: Database) -> None:
    await register(database, "a", pool="all")
    await register(database, "b", pool="fast", queues=["fast"])
    await register(database, "c", pool="foreign", tenant="another")
    await drain(database, await register(database, "d", pool="draining"))
    await lapse(database, await register(database, "e", pool="lapsed"))
    names = ("all", "fast", "foreign", "draining", "lapsed")
    for job_type in ("unserved", "c", "d", "e"):
        await submit_many(database, 20, type=job_type, priority=100)
    await submit(database, type="b", queue="slow")
    expected = [
        await submit(database, type="a", queue="any"),
        await submit(database, type="b", queue="fast"),
        await submit(database, type="c", tenant="another"),
    ]
    ready = await list_ready(database, *names, limit=3)
    assert [job.key.job_id for job in ready] == [job.id for job in expected]


async def test_only_jobs_of_named_pools_are_ready(database: Database) -> None:
    await register(database, "a", "both", pool="one")
    await register(database, "b", "both", pool="two")
    a, b, two_types = [await submit(database, type=name) for name in ("a", "b", "both")]
    assert [job.key.job_id for job in await list_ready(database, "one")] == [a.id, two_types.id]
    assert [job.key.job_id for job in await list_ready(database, "two")] == [b.id, two_types.id]
    assert [job.key.job_id for job in await list_ready(database, "one", "two")] == [
        a.id,
        b.id,
        two_types.id,
    ]
    assert await list_ready(database, "none") == []


async def test_pool_sums_its_workers(database: Database) -> None:
    one = await register(database, "a", "b", pool="large", slots=3)
    await register(database, "a", "b", pool="large", slots=4)
    await register(database, "c", pool="small", slots=1, queues=["fast"])
    await drain(database, await register(database, "a", "b", pool="large", slots=100))
    await lapse(database, await register(database, "a", "b", pool="large", slots=100))
    jobs = await submit_many(database, 2, type="a")
    await start(database, one, *jobs)
    assert await read_pools(database) == {
        "large": Pool(
            name="large",
            tenants=frozenset({DEFAULT_TENANT}),
            queues=frozenset(),
            types=frozenset({"a", "b"}),
            workers=2,
            slots=7,
            running=2,
        ),
        "small": Pool(
            name="small",
            tenants=frozenset({DEFAULT_TENANT}),
            queues=frozenset({"fast"}),
            types=frozenset({"c"}),
            workers=1,
            slots=1,
            running=0,
        ),
    }


async def test_pool_without_handlers_serves_nothing(database: Database) -> None:
    await register(database, "a", pool="bare")
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM worker_handlers"))
    assert (await read_pools(database))["bare"].types == frozenset()


async def lane_heads(database: Database, *, limit: int, **known_jobs: int) -> dict[str, Head]:
    """Return the heads of the default queue's lanes by type; `known_jobs` has counts by type."""
    known = {Lane(DEFAULT_TENANT, DEFAULT_QUEUE, name): count for name, count in known_jobs.items()}
    async with database.transaction() as connection:
        heads = await ready_heads(connection, pools=["pool"], limit=limit, known=known)
    return {head.lane.type: head for head in heads}


async def test_single_lane_uses_the_whole_limit(database: Database) -> None:
    await register(database, "a")
    jobs = await submit_many(database, 5, type="a")
    for limit, count in ((3, 3), (5, 5), (9, 5)):
        head = (await lane_heads(database, limit=limit))["a"]
        assert head.keys == [delivery(job) for job in jobs[:count]]
        assert list(head.ranks) == sorted(head.ranks)
        assert head.whole == (limit > 5)
    # The limit does not include known jobs.
    assert len((await lane_heads(database, limit=2, a=2))["a"].keys) == 4


async def test_page_contains_twice_the_fair_share_of_each_lane(database: Database) -> None:
    await register(database, "a", "b", "c")
    for job_type in ("a", "b"):
        await submit_many(database, 200, type=job_type)
    await submit_many(database, 7, type="c")
    heads = await lane_heads(database, limit=150, b=10)
    # Twice the share of 150 is 100; the page adds a few jobs.
    sizes = {job_type: len(head.keys) for job_type, head in heads.items()}
    assert sizes == {"a": 108, "b": 118, "c": 7}
    assert {job_type for job_type, head in heads.items() if head.whole} == {"c"}


async def test_jobs_after_an_incomplete_lane_are_omitted(
    database: Database,
) -> None:
    await register(database, "a", "b")
    early = await submit_many(database, 100, type="a", priority=10)
    await submit_many(database, 5, type="b")
    # The unread jobs of the incomplete lane may precede the jobs of the other lane.
    assert [job.key for job in await list_ready(database, limit=60)] == [
        delivery(job) for job in early[:60]
    ]
    assert len(await list_ready(database, limit=105)) == 105


async def test_claimed_and_ended_jobs_are_not_ready(database: Database) -> None:
    worker_id = await register(database)
    waiting, claimed, cancelled = await submit_many(database, 3)
    await start(database, worker_id, claimed)
    async with database.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=cancelled.id)
    assert [job.key for job in await list_ready(database)] == [delivery(waiting)]

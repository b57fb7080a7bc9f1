"""Claims: exactly one live worker starts each job."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import JobId, WorkerId, uuid7
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.retry import RetryOverrides
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.sql.database import Database
from support.histories import assert_legal
from support.jobs import history, read_job, set_column, submit, submit_many
from support.workers import attempt_end, claim, delivery, lapse, register, start, write_ends


async def test_claim_returns_the_data_of_the_attempt(database: Database) -> None:
    worker_id = await register(database)
    retry = RetryOverrides(max_attempts=9, initial_backoff=timedelta(seconds=0.5), jitter=0.25)
    deadline = datetime.now(UTC) + timedelta(minutes=10)
    job = await submit(
        database,
        type="mail",
        queue="fast",
        payload='{"to":   "a@example.com"}',
        labels={"team": "blue"},
        timeout=timedelta(seconds=90),
        deadline=deadline,
        retry=retry,
    )
    [claimed] = await start(database, worker_id, job)
    assert (claimed.key, claimed.tenant) == ((job.id, 1), DEFAULT_TENANT)
    assert (claimed.type, claimed.queue) == ("mail", "fast")
    assert claimed.payload == '{"to":   "a@example.com"}'
    assert claimed.labels == {"team": "blue"}
    assert (claimed.retry, claimed.retries_used) == (retry, 0)
    assert (claimed.timeout, claimed.deadline) == (timedelta(seconds=90), deadline)
    assert claimed.time_left is not None
    assert timedelta(minutes=9) < claimed.time_left < timedelta(minutes=10)
    job = await read_job(database, job.id)
    assert (job.state, job.attempt, job.worker_id) == (JobState.RUNNING, 1, worker_id)
    assert job.start_time == job.update_time


async def test_claimed_jobs_are_in_delivery_order(database: Database) -> None:
    worker_id = await register(database)
    jobs = await submit_many(database, 20)
    random.Random(1).shuffle(jobs)
    await start(database, worker_id, *jobs)


async def test_claim_without_deliveries_returns_nothing(database: Database) -> None:
    assert await claim(database, await register(database), []) == []


async def test_second_claim_of_a_delivery_returns_nothing(database: Database) -> None:
    one, other = await register(database), await register(database)
    job = await submit(database)
    await start(database, one, job)
    for worker_id in (one, other):
        assert await claim(database, worker_id, [delivery(job)]) == []
    assert (await read_job(database, job.id)).seq == 2


async def test_duplicate_delivery_in_one_claim_runs_once(database: Database) -> None:
    worker_id = await register(database)
    job = await submit(database)
    claimed = await claim(database, worker_id, [delivery(job), delivery(job)])
    assert [each.key for each in claimed] == [(job.id, 1)]


async def test_stale_delivery_does_not_block_a_current_one(
    database: Database,
) -> None:
    worker_id = await register(database)
    job = await submit(database)
    await start(database, worker_id, job)
    await write_ends(database, worker_id, attempt_end(job.id, 1, EventType.INTERRUPTED))
    deliveries = [AttemptKey(job.id, number) for number in (1, 2, 3)]
    claimed = await claim(database, worker_id, deliveries)
    assert [each.key for each in claimed] == [(job.id, 2)]


@pytest.mark.parametrize("attempt", [2, 7, 2**31 - 1])
async def test_delivery_of_another_attempt_is_not_claimed(database: Database, attempt: int) -> None:
    worker_id = await register(database)
    job = await submit(database)
    before = await read_job(database, job.id)
    assert await claim(database, worker_id, [AttemptKey(job.id, attempt)]) == []
    assert await read_job(database, job.id) == before


async def test_jobs_that_cannot_start_are_not_claimed(database: Database) -> None:
    worker_id = await register(database)
    claimable, cancelled, late, waiting, foreign = [
        await submit(database),
        await submit(database),
        await submit(database, deadline=datetime.now(UTC) + timedelta(hours=1)),
        await submit(database, schedule_time=datetime.now(UTC) + timedelta(hours=1)),
        await submit(database, tenant="another"),
    ]
    async with database.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=cancelled.id)
    await set_column(database, late.id, "deadline = now() - interval '1 s'")
    unknown = AttemptKey(JobId(uuid7()), 1)
    offered = [delivery(job) for job in (cancelled, late, waiting, foreign, claimable)]
    claimed = await claim(database, worker_id, [unknown, *offered])
    assert [each.key.job_id for each in claimed] == [claimable.id]


async def test_worker_without_a_lease_claims_nothing(database: Database) -> None:
    lapsed = await register(database)
    await lapse(database, lapsed)
    job = await submit(database)
    assert await claim(database, lapsed, [delivery(job)]) == []
    assert await claim(database, WorkerId(uuid7()), [delivery(job)]) == []
    assert (await read_job(database, job.id)).state is JobState.QUEUED


async def test_claim_skips_locked_jobs(database: Database) -> None:
    worker_id = await register(database)
    locked, free = await submit_many(database, 2)
    async with database.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=locked.id)
        # The cancellation is not committed. The claim skips the job without waiting.
        async with asyncio.timeout(30):
            claimed = await claim(database, worker_id, [delivery(locked), delivery(free)])
        assert [each.key.job_id for each in claimed] == [free.id]


async def test_limited_claim_returns_the_first_free_jobs(database: Database) -> None:
    worker_id, other = await register(database), await register(database)
    jobs = await submit_many(database, 6)
    await start(database, other, jobs[0])
    deliveries = [delivery(job) for job in jobs]
    async with database.transaction() as connection:
        # Another worker holds the lock of this job for its own claim.
        await connection.execute(_LOCK_JOB, {"id": jobs[2].id})
        claimed = await claim(database, worker_id, deliveries, most=2)
    assert [job.key.job_id for job in claimed] == [jobs[1].id, jobs[3].id]
    states = [(await read_job(database, job.id)).state for job in (jobs[2], *jobs[4:])]
    assert set(states) == {JobState.QUEUED}
    remaining = await claim(database, worker_id, deliveries, most=10)
    assert [job.key.job_id for job in remaining] == [jobs[2].id, jobs[4].id, jobs[5].id]


_LOCK_JOB = text("SELECT id FROM jobs WHERE id = :id FOR UPDATE")


async def test_concurrent_claims_give_each_job_to_one_worker(large_pool: Database) -> None:
    workers = [await register(large_pool) for _ in range(32)]
    rng = random.Random(32)
    for _ in range(5):
        jobs = await submit_many(large_pool, 100)
        barrier = asyncio.Barrier(32)

        async def race(
            worker_id: WorkerId,
            offered: list[AttemptKey],
            barrier: asyncio.Barrier = barrier,
        ) -> list[JobId]:
            await barrier.wait()
            claimed = await claim(large_pool, worker_id, offered)
            return [job.key.job_id for job in claimed]

        offered_deliveries = [rng.sample([delivery(job) for job in jobs], 100) for _ in workers]
        async with asyncio.timeout(60):
            claimed_by_worker = await asyncio.gather(*map(race, workers, offered_deliveries))
        assert Counter(job_id for ids in claimed_by_worker for job_id in ids) == Counter(
            job.id for job in jobs
        )
        for worker_id, ids in zip(workers, claimed_by_worker, strict=True):
            for job_id in ids[:2]:
                job = await read_job(large_pool, job_id)
                assert (job.worker_id, job.attempt) == (worker_id, 1)
                assert_legal(job, await history(large_pool, job_id))

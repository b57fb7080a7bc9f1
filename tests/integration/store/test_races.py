"""Concurrent writers of all kinds: every job has a legal history afterwards."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.errors import StateConflict
from headrace_core.domain.job import DEFAULT_TENANT, Job, Progress
from headrace_core.domain.lifecycle import TERMINAL, EventType, JobState
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.promote import promote_due
from headrace_core.store.jobs.read import list_jobs
from headrace_core.store.jobs.recover import expire_overdue, recover_lost
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.sql.database import Database
from support.histories import assert_legal
from support.jobs import history, set_column, submit_many
from support.leading import lead
from support.workers import attempt_end, claim, lapse, register, report, write_ends

ROUNDS = 4
JOBS = 20
CONCURRENT_STEPS = 6


async def all_jobs(database: Database) -> list[Job]:
    async with database.transaction() as connection:
        return await list_jobs(
            connection, tenant=DEFAULT_TENANT, query=(), limit=JOBS, before=None, full=False
        )


async def request(database: Database, function: Callable[..., Awaitable[Job]], job: Job) -> None:
    try:
        async with database.transaction() as connection:
            await function(connection, tenant=DEFAULT_TENANT, job_id=job.id)
    except StateConflict as conflict:
        conflicts.append(conflict)


conflicts: list[StateConflict] = []


async def recover(database: Database) -> None:
    term = await lead(database)
    async with database.transaction() as connection:
        await recover_lost(connection, term=term, limit=JOBS, max_losses=1)
        await expire_overdue(connection, term=term, limit=JOBS, running_grace=timedelta())


async def promote(database: Database) -> None:
    term = await lead(database)
    async with database.transaction() as connection:
        await promote_due(connection, term=term, limit=JOBS)


@pytest.mark.parametrize("seed", range(2))
async def test_concurrent_workers_leave_legal_histories(large_pool: Database, seed: int) -> None:
    rng = random.Random(seed)
    conflicts.clear()
    workers = [await register(large_pool) for _ in range(3)]
    await submit_many(large_pool, JOBS)
    for number in range(ROUNDS):
        now = await all_jobs(large_pool)
        if number == 2:
            # One of the workers is lost, and some jobs are overdue.
            await lapse(large_pool, workers[0])
            workers[0] = await register(large_pool)
            for job in rng.sample(now, 5):
                await set_column(large_pool, job.id, "deadline = now() - interval '1 s'")
        steps: list[Awaitable[object]] = [
            recover(large_pool),
            promote(large_pool),
            recover(large_pool),
        ]
        for job in now:
            attempt = max(1, job.attempt)
            owner = job.worker_id or rng.choice(workers)
            progress = AttemptReport(
                key=AttemptKey(job.id, attempt), progress=Progress(fraction=0.5)
            )
            possible: list[Awaitable[object]] = [
                request(large_pool, cancel_job, job),
                request(large_pool, requeue_job, job),
                report(large_pool, owner, progress),
                *(
                    claim(large_pool, worker, [AttemptKey(job.id, job.attempt + 1)])
                    for worker in workers
                ),
                *(
                    write_ends(large_pool, owner, attempt_end(job.id, attempt, event, **backoff))
                    for event, backoff in (
                        (EventType.SUCCEEDED, {}),
                        (EventType.RETRY_SCHEDULED, {"backoff": timedelta()}),
                        (EventType.FAILED, {}),
                        (EventType.INTERRUPTED, {}),
                    )
                ),
            ]
            rng.shuffle(possible)
            steps += possible[:CONCURRENT_STEPS]
            for unused in possible[CONCURRENT_STEPS:]:
                unused.close()  # type: ignore[attr-defined]
        rng.shuffle(steps)
        async with asyncio.timeout(60):
            await asyncio.gather(*steps)
    seen: Counter[EventType] = Counter()
    for job in await all_jobs(large_pool):
        events = await history(large_pool, job.id)
        assert_legal(job, events)
        # Each requeue follows one end of a job.
        ends = sum(event.state in TERMINAL for event in events)
        requeues = sum(event.type is EventType.REQUEUED for event in events)
        assert ends == requeues + (job.state in TERMINAL)
        seen.update(event.type for event in events)
    # The random choices included starts and cancellations.
    assert {EventType.STARTED, EventType.CANCELLED} <= set(seen)
    # No conflict reports a state that would have allowed the request.
    assert conflicts
    assert all(conflict.state not in conflict.allowed for conflict in conflicts)


@pytest.mark.parametrize("event", [EventType.SUCCEEDED, EventType.RETRY_SCHEDULED])
async def test_concurrent_cancel_and_end_have_one_winner(
    large_pool: Database, event: EventType
) -> None:
    worker_id = await register(large_pool)
    jobs = await submit_many(large_pool, JOBS)
    await claim(large_pool, worker_id, [AttemptKey(job.id, 1) for job in jobs])
    conflicts.clear()
    async with asyncio.timeout(60):
        await asyncio.gather(
            *(write_ends(large_pool, worker_id, attempt_end(job.id, 1, event)) for job in jobs),
            *(request(large_pool, cancel_job, job) for job in jobs),
        )
    states = []
    for ended in await all_jobs(large_pool):
        assert_legal(ended, await history(large_pool, ended.id))
        states.append(ended.state)
    if event is EventType.SUCCEEDED:
        # The result is accepted in either order. The cancellation is rejected or recorded.
        assert set(states) == {JobState.SUCCEEDED}
        assert {conflict.state for conflict in conflicts} <= {JobState.SUCCEEDED}
    else:
        # The cancellation ended the waiting retry, or no retry was scheduled.
        assert set(states) == {JobState.CANCELLED}
        assert not conflicts

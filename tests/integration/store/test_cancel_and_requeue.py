"""Cancellations and requeues by clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from headrace_core.domain.errors import JobNotFound, StateConflict
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import DEFAULT_TENANT, Job
from headrace_core.domain.lifecycle import EventType, JobState, sources
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.recover import recover_lost
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.sql.database import Database
from support.histories import assert_legal
from support.jobs import history, read_job, set_column, submit
from support.leading import lead
from support.states import prepare_job
from support.until import until_blocked
from support.workers import attempt_end, lapse, start, write_ends


async def cancel(database: Database, job_id: JobId, tenant: str = DEFAULT_TENANT) -> Job:
    async with database.transaction() as connection:
        return await cancel_job(connection, tenant=tenant, job_id=job_id)


async def requeue(database: Database, job_id: JobId, tenant: str = DEFAULT_TENANT) -> Job:
    async with database.transaction() as connection:
        return await requeue_job(connection, tenant=tenant, job_id=job_id)


@pytest.mark.parametrize("change", [cancel, requeue])
async def test_job_of_another_tenant_is_not_found(
    database: Database, change: Callable[..., Awaitable[Job]]
) -> None:
    prepared = await prepare_job(database, JobState.QUEUED)
    for job_id, tenant in ((prepared.job.id, "another"), (JobId(uuid7()), DEFAULT_TENANT)):
        with pytest.raises(JobNotFound) as excinfo:
            await change(database, job_id, tenant)
        assert excinfo.value.job_id == job_id
    assert await read_job(database, prepared.job.id) == prepared.job


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED])
async def test_cancel_of_ended_job_is_rejected(database: Database, state: JobState) -> None:
    prepared = await prepare_job(database, state)
    with pytest.raises(StateConflict) as excinfo:
        await cancel(database, prepared.job.id)
    assert (excinfo.value.job_id, excinfo.value.state) == (prepared.job.id, state)
    assert excinfo.value.allowed == sources(EventType.CANCELLED)


async def test_second_cancel_changes_nothing(database: Database) -> None:
    waiting = await prepare_job(database, JobState.QUEUED)
    running = await prepare_job(database, JobState.RUNNING)
    for prepared, state in ((waiting, JobState.CANCELLED), (running, JobState.RUNNING)):
        first = await cancel(database, prepared.job.id)
        repeated = await cancel(database, prepared.job.id)
        assert first == repeated
        assert first.state is state
        assert first.cancel_request_time is not None


async def test_requeued_job_has_fresh_budgets(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    job_id = prepared.job.id
    await lapse(database, prepared.worker_id)
    async with database.transaction() as connection:
        await recover_lost(connection, term=await lead(database), limit=10, max_losses=0)
    failed = await read_job(database, job_id)
    await set_column(database, job_id, "retries_used = 1, deadline = now() - interval '1 h'")
    job = await requeue(database, job_id)
    assert (job.state, job.retries_used, job.error) == (JobState.QUEUED, 0, None)
    assert (job.progress, job.end_time, job.cancel_request_time) == (None, None, None)
    assert job.deadline is None
    # The attempt number increases, so the old attempt stays fenced.
    assert job.attempt == failed.attempt == 1
    assert job.queue_time is not None
    assert failed.end_time is not None
    assert job.queue_time > failed.end_time
    # The whole loss budget is available again.
    other = await prepare_job(database, JobState.QUEUED)
    await start(database, other.worker_id, job)
    await lapse(database, other.worker_id)
    async with database.transaction() as connection:
        assert await recover_lost(
            connection, term=await lead(database), limit=10, max_losses=1
        ) == [(job_id, "queued")]
    assert_legal(await read_job(database, job_id), await history(database, job_id))


async def test_requeued_job_keeps_a_future_deadline(database: Database) -> None:
    deadline = datetime.now(UTC) + timedelta(hours=1)
    job = await submit(database, deadline=deadline)
    await cancel(database, job.id)
    assert (await requeue(database, job.id)).deadline == deadline


async def test_requeued_job_can_be_cancelled_again(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    job_id, worker_id = prepared.job.id, prepared.worker_id
    await cancel(database, job_id)
    await write_ends(database, worker_id, attempt_end(job_id, 1, EventType.CANCELLED))
    await start(database, worker_id, await requeue(database, job_id))
    await write_ends(database, worker_id, attempt_end(job_id, 2, EventType.RETRY_SCHEDULED))
    assert (await cancel(database, job_id)).state is JobState.CANCELLED
    assert_legal(await read_job(database, job_id), await history(database, job_id))


# Of two concurrent requests, the second one sees the result of the first.


@pytest.mark.parametrize(
    ("state", "first", "second", "end"),
    [
        (JobState.FAILED, requeue, cancel, JobState.CANCELLED),
        (JobState.CANCELLED, requeue, cancel, JobState.CANCELLED),
        (JobState.QUEUED, cancel, requeue, JobState.QUEUED),
        (JobState.QUEUED, cancel, cancel, JobState.CANCELLED),
    ],
)
async def test_concurrent_request_sees_the_earlier_change(
    large_pool: Database,
    state: JobState,
    first: Callable[..., Awaitable[Job]],
    second: Callable[..., Awaitable[Job]],
    end: JobState,
) -> None:
    prepared = await prepare_job(large_pool, state)
    function = {cancel: cancel_job, requeue: requeue_job}[first]
    async with large_pool.transaction() as connection:
        await function(connection, tenant=DEFAULT_TENANT, job_id=prepared.job.id)
        waiting = asyncio.ensure_future(second(large_pool, prepared.job.id))
        await until_blocked(large_pool)
    async with asyncio.timeout(15):
        assert (await waiting).state is end
    assert_legal(
        await read_job(large_pool, prepared.job.id), await history(large_pool, prepared.job.id)
    )


async def test_rejected_requeue_reports_the_current_state(large_pool: Database) -> None:
    prepared = await prepare_job(large_pool, JobState.FAILED)
    async with large_pool.transaction() as connection:
        await requeue_job(connection, tenant=DEFAULT_TENANT, job_id=prepared.job.id)
        waiting = asyncio.ensure_future(requeue(large_pool, prepared.job.id))
        await until_blocked(large_pool)
    with pytest.raises(StateConflict) as excinfo:
        async with asyncio.timeout(15):
            await waiting
    assert excinfo.value.state is JobState.QUEUED
    assert excinfo.value.state not in excinfo.value.allowed

"""Recovery of the jobs of lost workers, and expiry of overdue jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import text

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.retry import LOSSES_BEFORE_OWN_PROCESS
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.recover import expire_overdue, recover_lost
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import remove_worker, renew_lease
from support.histories import assert_legal
from support.jobs import history, read_job, set_column, submit, submit_many
from support.leading import lead
from support.states import prepare_job
from support.until import until, until_blocked
from support.workers import attempt_end, lapse, register, start, write_ends


async def recover(
    database: Database, *, limit: int = 100, max_losses: int = 3
) -> Sequence[tuple[JobId, str]]:
    async with database.transaction() as connection:
        return await recover_lost(
            connection, term=await lead(database), limit=limit, max_losses=max_losses
        )


async def expire(
    database: Database, *, limit: int = 100, running_grace: timedelta = timedelta()
) -> Sequence[JobId]:
    async with database.transaction() as connection:
        return await expire_overdue(
            connection, term=await lead(database), limit=limit, running_grace=running_grace
        )


async def test_old_jobs_of_live_workers_are_not_recovered(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    await set_column(database, prepared.job.id, "start_time = now() - interval '1 year'")
    assert await recover(database) == []


async def test_jobs_of_lapsed_and_missing_workers_are_recovered(
    database: Database,
) -> None:
    live, lapsed, missing = [await prepare_job(database, JobState.RUNNING) for _ in range(3)]
    await lapse(database, lapsed.worker_id)
    async with database.transaction() as connection:
        await remove_worker(connection, worker_id=missing.worker_id)
    recovered_pages = await recover(database)
    assert sorted(recovered_pages) == sorted(
        [(lapsed.job.id, "queued"), (missing.job.id, "queued")]
    )
    assert (await read_job(database, live.job.id)).state is JobState.RUNNING
    job = await read_job(database, lapsed.job.id)
    assert (job.state, job.retries_used) == (JobState.QUEUED, 0)
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == ("WORKER_LOST", True)
    assert "attempt 1" in job.error.message
    assert_legal(job, await history(database, job.id))
    assert await recover(database) == []


async def test_only_running_jobs_are_recovered(database: Database) -> None:
    for state in JobState:
        prepared = await prepare_job(database, state)
        await lapse(database, prepared.worker_id)
    assert len(await recover(database)) == 1


async def lose_worker(database: Database, job_id: JobId, *, max_losses: int) -> tuple[int, str]:
    """Start another attempt and lose its worker; return the earlier losses and the new state."""
    worker_id = await register(database)
    [claimed] = await start(database, worker_id, await read_job(database, job_id))
    await lapse(database, worker_id)
    [(recovered, state)] = await recover(database, max_losses=max_losses)
    assert recovered == job_id
    return claimed.worker_losses, state


async def test_job_in_its_own_process_keeps_its_loss_budget(
    database: Database,
) -> None:
    job = await submit(database)
    results = [await lose_worker(database, job.id, max_losses=3) for _ in range(6)]
    assert [losses for losses, _ in results] == [0, 1, 2, 2, 2, 2]
    assert {state for _, state in results} == {"queued"}
    job = await read_job(database, job.id)
    assert (job.attempt, job.retries_used) == (6, 0)
    assert_legal(job, await history(database, job.id))


@pytest.mark.parametrize("limit", range(LOSSES_BEFORE_OWN_PROCESS))
async def test_spent_loss_budget_fails_the_job(database: Database, limit: int) -> None:
    job = await submit(database)
    results = [await lose_worker(database, job.id, max_losses=limit) for _ in range(limit + 1)]
    assert [state for _, state in results] == ["queued"] * limit + ["failed"]
    job = await read_job(database, job.id)
    assert (job.attempt, job.retries_used) == (limit + 1, 0)
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == ("WORKER_LOST", False)
    assert job.end_time is not None
    assert_legal(job, await history(database, job.id))


async def test_lost_job_with_a_cancel_request_is_cancelled(
    database: Database,
) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    async with database.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=prepared.job.id)
    await lapse(database, prepared.worker_id)
    assert await recover(database) == [(prepared.job.id, "cancelled")]
    job = await read_job(database, prepared.job.id)
    events = await history(database, job.id)
    assert (events[-1].type, events[-1].error) == (EventType.CANCELLED, None)
    assert_legal(job, events)


async def test_lost_jobs_are_recovered_in_pages(database: Database) -> None:
    workers = [await register(database) for _ in range(3)]
    jobs = await submit_many(database, 30)
    for number, worker_id in enumerate(workers):
        await start(database, worker_id, *jobs[number * 10 : number * 10 + 10])
        await lapse(database, worker_id)
    pages = []
    while page := await recover(database, limit=8):
        pages.append(page)
    assert [len(page) for page in pages] == [8, 8, 8, 6]
    assert {job_id for page in pages for job_id, _ in page} == {job.id for job in jobs}


async def test_locked_job_is_not_recovered(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    await lapse(database, prepared.worker_id)
    async with database.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=prepared.job.id)
        assert await recover(database) == []
    assert await recover(database) == [(prepared.job.id, "cancelled")]


async def test_delayed_recovery_respects_renewed_leases(
    database: Database,
) -> None:
    # The recovery checks the workers in the order of their ids.
    lapsed, renewed = [await prepare_job(database, JobState.RUNNING) for _ in range(2)]
    assert lapsed.worker_id < renewed.worker_id
    await lapse(database, lapsed.worker_id)
    async with database.transaction() as connection:
        await connection.execute(_CREATE_WAIT_FUNCTION)
        await connection.execute(_CREATE_WAIT_TRIGGER)
    async with database.transaction() as holder:
        await holder.execute(text("SELECT pg_advisory_xact_lock(1)"))
        async with database.transaction() as connection:
            end = await connection.scalar(_SHORTEN_LEASE, {"id": renewed.worker_id})
        delayed = asyncio.create_task(recover(database, limit=2))
        await until_blocked(database)
        async with database.statement() as connection:
            lease = timedelta(minutes=10)
            assert await renew_lease(
                connection, worker_id=renewed.worker_id, lease=lease, draining=False
            )

        async def has_lapsed() -> bool:
            return await holder.scalar(text("SELECT clock_timestamp()")) > end

        # By now, the lease has lapsed in the statement's snapshot.
        await until(has_lapsed)
    assert await delayed == [(lapsed.job.id, "queued")]
    assert (await read_job(database, renewed.job.id)).state is JobState.RUNNING


# Each update of a job waits for this lock.
_CREATE_WAIT_FUNCTION = text("""
    CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN new; END'
""")
_CREATE_WAIT_TRIGGER = text("""
    CREATE TRIGGER held_up BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION hold_up()
""")
# The recovery starts before this lease lapses.
_SHORTEN_LEASE = text("""
    UPDATE workers SET lease_expire_time = clock_timestamp() + interval '2 s' WHERE id = :id
    RETURNING lease_expire_time
""")


async def test_slow_worker_loses_its_recovered_job(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    await lapse(database, prepared.worker_id)
    await recover(database)
    end = attempt_end(prepared.job.id, 1, EventType.SUCCEEDED)
    assert await write_ends(database, prepared.worker_id, end) == {}


# Deadlines.


async def test_waiting_job_expires_at_its_deadline(database: Database) -> None:
    for state in (JobState.SCHEDULED, JobState.QUEUED, JobState.RETRYING):
        prepared = await prepare_job(database, state)
        await set_column(database, prepared.job.id, "deadline = now() + interval '1 h'")
        assert await expire(database) == []
        await set_column(database, prepared.job.id, "deadline = now()")
        assert await expire(database) == [prepared.job.id]
        job = await read_job(database, prepared.job.id)
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert (job.error.type, job.error.retryable) == ("DEADLINE_EXCEEDED", False)
        assert job.error.message.endswith(f"while the job was {state}")
        assert_legal(job, await history(database, job.id))


async def test_running_job_expires_after_the_grace_period(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    await set_column(database, prepared.job.id, "deadline = now() - interval '1 minute'")
    assert await expire(database, running_grace=timedelta(minutes=2)) == []
    assert await expire(database, running_grace=timedelta(seconds=30)) == [prepared.job.id]
    job = await read_job(database, prepared.job.id)
    assert_legal(job, await history(database, job.id))


async def test_job_without_deadline_or_already_ended_never_expires(database: Database) -> None:
    for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
        prepared = await prepare_job(database, state)
        await set_column(database, prepared.job.id, "deadline = now() - interval '1 h'")
    await prepare_job(database, JobState.QUEUED)
    assert await expire(database) == []


async def test_overdue_jobs_expire_in_pages_latest_first(database: Database) -> None:
    jobs = await submit_many(database, 10)
    for number, job in enumerate(jobs):
        await set_column(database, job.id, f"deadline = now() - interval '{number + 1} minute'")
    pages = []
    while page := await expire(database, limit=4):
        pages.append(page)
    assert [len(page) for page in pages] == [4, 4, 2]
    assert set(pages[0]) == {job.id for job in jobs[6:]}


async def test_jobs_in_their_grace_period_do_not_block_others(
    database: Database,
) -> None:
    running = [await prepare_job(database, JobState.RUNNING) for _ in range(3)]
    for prepared in running:
        await set_column(database, prepared.job.id, "deadline = now() - interval '10 s'")
    waiting = await submit(database)
    await set_column(database, waiting.id, "deadline = now() - interval '1 s'")
    assert await expire(database, limit=1, running_grace=timedelta(minutes=1)) == [waiting.id]

"""The ends of attempts, and the fence that refuses stale ones."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from headrace_core.domain.ids import WorkerId, uuid7
from headrace_core.domain.job import DEFAULT_TENANT, JobError, Progress
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.store.jobs.cancel import cancel_job, cancel_requests
from headrace_core.store.jobs.end import written_ends
from headrace_core.store.jobs.promote import promote_due
from headrace_core.store.sql.database import Database
from support.histories import assert_legal
from support.jobs import history, read_job, set_column, submit, submit_many
from support.leading import lead
from support.states import prepare_job
from support.until import until_blocked
from support.workers import (
    ERROR,
    attempt_end,
    claim,
    delivery,
    lapse,
    register,
    report,
    start,
    write_ends,
)

ENDS = [
    EventType.SUCCEEDED,
    EventType.RETRY_SCHEDULED,
    EventType.FAILED,
    EventType.INTERRUPTED,
    EventType.CANCELLED,
    EventType.EXPIRED,
    EventType.WORKER_LOST,
]


async def test_one_statement_writes_different_ends(database: Database) -> None:
    worker_id = await register(database)
    jobs = await submit_many(database, len(ENDS))
    await start(database, worker_id, *jobs)
    ends = [attempt_end(job.id, 1, event) for job, event in zip(jobs, ENDS, strict=True)]
    written = await write_ends(database, worker_id, *ends)
    assert written == {job.id: event for job, event in zip(jobs, ENDS, strict=True)}
    results = [await read_job(database, job.id) for job in jobs]
    assert [job.state for job in results] == [
        JobState.SUCCEEDED,
        JobState.RETRYING,
        JobState.FAILED,
        JobState.QUEUED,
        JobState.CANCELLED,
        JobState.FAILED,
        JobState.QUEUED,
    ]
    assert [job.retries_used for job in results] == [0, 1, 0, 0, 0, 0, 0]
    assert [job.result for job in results] == ['{"sum": 6}', *[None] * 6]
    assert [job.error for job in results] == [None, ERROR, ERROR, None, None, ERROR, ERROR]
    for job in results:
        assert_legal(job, await history(database, job.id))


async def test_accepted_ends_are_found_later(database: Database) -> None:
    worker_id = await register(database)
    *jobs, cancelled, running = await submit_many(database, len(ENDS) + 2)
    await start(database, worker_id, *jobs, cancelled, running)
    async with database.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=cancelled.id)
    attempt_ends = [attempt_end(job.id, 1, event) for job, event in zip(jobs, ENDS, strict=True)]
    attempt_ends.append(attempt_end(cancelled.id, 1, EventType.INTERRUPTED))
    await write_ends(database, worker_id, *attempt_ends)
    others = [
        attempt_end(running.id, 1, EventType.SUCCEEDED),
        attempt_end(jobs[0].id, 1, EventType.FAILED),
    ]
    async with database.statement() as connection:
        written = await written_ends(connection, ends=[*attempt_ends, *others])
    assert written == {
        **{(job.id, 1): event for job, event in zip(jobs, ENDS, strict=True)},
        (cancelled.id, 1): EventType.CANCELLED,
    }


async def test_result_is_stored_exactly(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    result = '{"b":  1, "a": 9007199254740993, "b": 2}'
    end = attempt_end(prepared.job.id, 1, EventType.SUCCEEDED, result=result)
    assert await write_ends(database, prepared.worker_id, end)
    assert (await read_job(database, prepared.job.id)).result == result


async def test_backoff_follows_the_database_clock(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    backoff = timedelta(minutes=7)
    end = attempt_end(prepared.job.id, 1, EventType.RETRY_SCHEDULED, backoff=backoff)
    await write_ends(database, prepared.worker_id, end)
    job = await read_job(database, prepared.job.id)
    assert abs(job.due_time - job.update_time - backoff) < timedelta(milliseconds=10)


async def test_interruption_spends_an_attempt_but_no_retry(database: Database) -> None:
    worker_id = await register(database)
    job = await submit(database)
    for attempt in (1, 2, 3):
        await start(database, worker_id, await read_job(database, job.id))
        await write_ends(database, worker_id, attempt_end(job.id, attempt, EventType.INTERRUPTED))
    job = await read_job(database, job.id)
    assert (job.attempt, job.retries_used, job.state) == (3, 0, JobState.QUEUED)


@pytest.mark.parametrize(
    ("event", "retries_left"),
    [
        (EventType.WORKER_LOST, 2),
        (EventType.RETRY_SCHEDULED, 0),
        (EventType.FAILED, 0),
    ],
)
async def test_consecutive_interruptions_are_counted(
    database: Database, event: EventType, retries_left: int
) -> None:
    worker_id = await register(database)
    job = await submit(database)
    for attempt in (1, 2, 3):
        [claimed] = await start(database, worker_id, await read_job(database, job.id))
        assert claimed.interruptions == attempt - 1
        end = attempt_end(job.id, attempt, EventType.INTERRUPTED if attempt < 3 else event)
        await write_ends(database, worker_id, end)
    async with database.statement() as connection:
        assert await connection.scalar(text("SELECT interruptions FROM jobs")) == retries_left


async def test_dead_process_spends_a_loss_but_no_retry(
    database: Database,
) -> None:
    worker_id = await register(database)
    job = await submit(database)
    for attempt in (1, 2, 3):
        [claimed] = await start(database, worker_id, await read_job(database, job.id))
        assert claimed.worker_losses == attempt - 1
        end = attempt_end(job.id, attempt, EventType.WORKER_LOST)
        assert await write_ends(database, worker_id, end) == {job.id: EventType.WORKER_LOST}
    await start(database, worker_id, await read_job(database, job.id))
    last = JobError(type="WORKER_LOST", message="one loss too many", retryable=False)
    await write_ends(database, worker_id, attempt_end(job.id, 4, EventType.WORKER_LOST, error=last))
    job = await read_job(database, job.id)
    assert (job.state, job.attempt, job.retries_used) == (JobState.FAILED, 4, 0)
    assert job.error == last
    assert_legal(job, await history(database, job.id))


async def test_stack_trace_stays_with_the_newest_error(database: Database) -> None:
    worker_id = await register(database)
    job = await submit(database)
    traced = JobError(type="E", message="m", retryable=True, stack_trace='File "a.py"')
    untraced = JobError(type="WORKER_LOST", message="m", retryable=True)
    seen = []
    for attempt, event, fields in (
        (1, EventType.RETRY_SCHEDULED, {"error": traced}),
        (2, EventType.INTERRUPTED, {}),
        (3, EventType.WORKER_LOST, {"error": untraced}),
        (4, EventType.RETRY_SCHEDULED, {"error": traced}),
        (5, EventType.SUCCEEDED, {}),
    ):
        await set_column(database, job.id, "state = 'queued', queue_time = now()")
        await start(database, worker_id, await read_job(database, job.id))
        await write_ends(database, worker_id, attempt_end(job.id, attempt, event, **fields))
        results = await read_job(database, job.id)
        seen.append(results.error and results.error.stack_trace)
    assert seen == ['File "a.py"', 'File "a.py"', "", 'File "a.py"', None]
    async with database.statement() as connection:
        assert await connection.scalar(text("SELECT stack_trace FROM jobs")) is None
    assert all(
        not event.error.stack_trace for event in await history(database, job.id) if event.error
    )


async def test_success_clears_the_error_of_an_earlier_attempt(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RETRYING)
    await set_column(database, prepared.job.id, "due_time = now()")
    async with database.transaction() as connection:
        await promote_due(connection, term=await lead(database), limit=1)
    job = await read_job(database, prepared.job.id)
    assert job.error == ERROR
    await start(database, prepared.worker_id, job)
    assert (await read_job(database, job.id)).error == ERROR
    await write_ends(database, prepared.worker_id, attempt_end(job.id, 2, EventType.SUCCEEDED))
    job = await read_job(database, job.id)
    assert (job.error, job.retries_used, job.attempt) == (None, 1, 2)


@pytest.mark.parametrize("event", ENDS)
async def test_end_of_another_workers_attempt_is_refused(
    database: Database, event: EventType
) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    before = await read_job(database, prepared.job.id)
    other_worker = await register(database)
    assert await write_ends(database, other_worker, attempt_end(before.id, 1, event)) == {}
    for attempt in (0, 2):
        assert (
            await write_ends(database, prepared.worker_id, attempt_end(before.id, attempt, event))
            == {}
        )
    assert await write_ends(database, WorkerId(uuid7()), attempt_end(before.id, 1, event)) == {}
    assert await read_job(database, before.id) == before


async def test_late_result_of_a_lost_worker_is_refused(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    lost_worker_id, job = prepared.worker_id, prepared.job
    # The worker with the newer attempt writes first, then the lost worker.
    await write_ends(database, lost_worker_id, attempt_end(job.id, 1, EventType.INTERRUPTED))
    other = await register(database)
    await start(database, other, await read_job(database, job.id))
    for event in ENDS:
        assert await write_ends(database, lost_worker_id, attempt_end(job.id, 1, event)) == {}
        assert await write_ends(database, lost_worker_id, attempt_end(job.id, 2, event)) == {}
    progress = Progress(fraction=1)
    for attempt in (1, 2):
        end = attempt_end(job.id, attempt, EventType.SUCCEEDED)
        assert await write_ends(database, other, end) == (
            {} if attempt == 1 else {job.id: EventType.SUCCEEDED}
        )
    assert (await read_job(database, job.id)).progress != progress


async def test_second_end_of_an_attempt_is_refused(database: Database) -> None:
    # A worker repeats a write if it received no response to the commit.
    prepared = await prepare_job(database, JobState.RUNNING)
    for event in ENDS:
        end = attempt_end(prepared.job.id, 1, event)
        written = await write_ends(database, prepared.worker_id, end)
        assert written == ({prepared.job.id: event} if event is ENDS[0] else {})


async def test_end_between_lapse_and_recovery_is_accepted(
    database: Database,
) -> None:
    # The job is not recovered yet, so its attempt is still current.
    prepared = await prepare_job(database, JobState.RUNNING)
    await lapse(database, prepared.worker_id)
    end = attempt_end(prepared.job.id, 1, EventType.SUCCEEDED)
    assert await write_ends(database, prepared.worker_id, end)


# Concurrent cancellations.


@pytest.mark.parametrize(
    ("event", "written", "state"),
    [
        (EventType.RETRY_SCHEDULED, EventType.CANCELLED, JobState.CANCELLED),
        (EventType.INTERRUPTED, EventType.CANCELLED, JobState.CANCELLED),
        (EventType.WORKER_LOST, EventType.CANCELLED, JobState.CANCELLED),
        (EventType.CANCELLED, EventType.CANCELLED, JobState.CANCELLED),
        (EventType.SUCCEEDED, EventType.SUCCEEDED, JobState.SUCCEEDED),
        (EventType.FAILED, EventType.FAILED, JobState.FAILED),
        (EventType.EXPIRED, EventType.EXPIRED, JobState.FAILED),
    ],
)
async def test_cancel_request_cancels_instead_of_a_retry(
    database: Database, event: EventType, written: EventType, state: JobState
) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    job_id = prepared.job.id
    async with database.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)
        requests = await cancel_requests(connection, worker_id=prepared.worker_id)
    assert requests == [(job_id, 1)]
    assert await write_ends(database, prepared.worker_id, attempt_end(job_id, 1, event)) == {
        job_id: written
    }
    job = await read_job(database, job_id)
    assert job.state is state
    assert job.end_time is not None
    assert job.retries_used == 0
    assert_legal(job, await history(database, job_id))


async def test_end_after_a_concurrent_cancel_request_is_cancelled(large_pool: Database) -> None:
    prepared = await prepare_job(large_pool, JobState.RUNNING)
    job_id = prepared.job.id
    async with large_pool.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)
        finishing = asyncio.create_task(
            write_ends(
                large_pool, prepared.worker_id, attempt_end(job_id, 1, EventType.RETRY_SCHEDULED)
            )
        )
        await until_blocked(large_pool)
    assert await finishing == {job_id: EventType.CANCELLED}
    job = await read_job(large_pool, job_id)
    assert_legal(job, await history(large_pool, job_id))


async def test_worker_reads_only_its_own_cancel_requests(database: Database) -> None:
    own_job, other = (
        await prepare_job(database, JobState.RUNNING),
        await prepare_job(database, JobState.RUNNING),
    )
    async with database.transaction() as connection:
        for prepared in (own_job, other):
            await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=prepared.job.id)
        assert await cancel_requests(connection, worker_id=own_job.worker_id) == [
            (own_job.job.id, 1)
        ]
    await write_ends(
        database, own_job.worker_id, attempt_end(own_job.job.id, 1, EventType.CANCELLED)
    )
    async with database.transaction() as connection:
        assert await cancel_requests(connection, worker_id=own_job.worker_id) == []


async def test_error_message_may_contain_any_text(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    error = JobError(type="Ünfall", message='"\\ \x00 \udcff \U0001f600 </script>', retryable=False)
    end = attempt_end(prepared.job.id, 1, EventType.FAILED, error=error)
    assert await write_ends(database, prepared.worker_id, end)
    stored = (await read_job(database, prepared.job.id)).error
    assert stored == JobError(
        type="Ünfall", message='"\\ ? ? \U0001f600 </script>', retryable=False
    )


async def test_empty_batch_writes_nothing(database: Database) -> None:
    worker_id = await register(database)
    assert await write_ends(database, worker_id) == {}
    assert await report(database, worker_id) == set()
    assert await claim(database, worker_id, []) == []


async def test_ends_in_different_orders_cause_no_deadlock(
    large_pool: Database,
) -> None:
    worker_id = await register(large_pool)
    jobs = await submit_many(large_pool, 100)
    await start(large_pool, worker_id, *jobs)
    ends = [attempt_end(job.id, 1, EventType.SUCCEEDED) for job in jobs]
    async with asyncio.timeout(60):
        written = await asyncio.gather(
            *(
                write_ends(large_pool, worker_id, *(ends if number % 2 else reversed(ends)))
                for number in range(10)
            )
        )
    # Each end was written by one of the calls.
    assert sum(map(len, written)) == 100
    assert await claim(large_pool, worker_id, [delivery(job) for job in jobs]) == []

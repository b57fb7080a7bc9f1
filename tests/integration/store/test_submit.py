"""Submits: jobs and batches are stored exactly, and repeated requests only once."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from headrace_core.domain.errors import RequestIdConflict
from headrace_core.domain.ids import BatchId
from headrace_core.domain.job import DEFAULT_TENANT, Job, JobSpec
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.retry import RetryOverrides
from headrace_core.domain.submission import NewBatch, NewJob
from headrace_core.store.jobs.read import database_time
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.jobs.submit_batch import submit_batch
from headrace_core.store.sql.database import Database
from support.jobs import history, new_batch, new_job, read_job, submit
from support.until import until_blocked

SPEC = JobSpec(
    type="mail",
    queue="fast",
    priority=-7,
    labels={"team": "blue", "": "empty", "ü": '"'},
    timeout=timedelta(seconds=1.5),
    deadline=datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    retry=RetryOverrides(max_attempts=5, max_backoff=timedelta(minutes=1), multiplier=1.5),
)
PAYLOAD = '{"n":   1e2, "n": 9007199254740993, "text": "ä\\u0000\\ud800"}'


async def count(database: Database, table: str = "jobs") -> int:
    async with database.transaction() as connection:
        return int(await connection.scalar(text(f"SELECT count(*) FROM {table}")))


async def submit_all(database: Database, *jobs: NewJob) -> list[Job | RequestIdConflict]:
    async with database.transaction() as connection:
        return await submit_jobs(connection, jobs)


async def test_submitted_job_is_stored_exactly(database: Database) -> None:
    new = NewJob(id=new_job().id, tenant=DEFAULT_TENANT, spec=SPEC, payload=PAYLOAD)
    [submitted] = await submit_all(database, new)
    assert isinstance(submitted, Job)
    stored = await read_job(database, new.id)
    # The submit returns the stored job without its payload.
    assert submitted == dataclasses.replace(stored, payload=None)
    for name in ("type", "queue", "priority", "labels", "timeout", "deadline", "retry"):
        assert getattr(stored, name) == getattr(SPEC, name)
    assert stored.payload == PAYLOAD
    assert (stored.state, stored.attempt, stored.seq) == (JobState.QUEUED, 0, 1)
    assert stored.create_time == stored.due_time == stored.queue_time == stored.update_time


async def test_future_job_is_scheduled_by_the_database_clock(database: Database) -> None:
    async with database.transaction() as connection:
        now = await database_time(connection)
        late, soon = [
            new_job(schedule_time=now + timedelta(seconds=seconds)) for seconds in (-60, 60)
        ]
        await submit_jobs(connection, [late, soon])
    job = await read_job(database, late.id)
    # The submit time replaces a schedule time in the past.
    assert (job.state, job.due_time) == (JobState.QUEUED, job.create_time)
    job = await read_job(database, soon.id)
    assert (job.state, job.queue_time) == (JobState.SCHEDULED, None)
    assert job.due_time == now + timedelta(seconds=60)


async def test_submitted_jobs_are_returned_in_request_order(database: Database) -> None:
    new = [new_job(priority=number % 7, request_id=f"r{-number}") for number in range(500)]
    results = await submit_all(database, *new)
    assert [result.id for result in results if isinstance(result, Job)] == [job.id for job in new]
    assert await count(database, "job_events") == 500


async def test_repeated_request_returns_the_same_job(database: Database) -> None:
    first = await submit(database, request_id="once")
    [repeated] = await submit_all(database, new_job(request_id="once"))
    assert repeated == first
    assert await count(database) == await count(database, "job_events") == 1


async def test_repeated_request_in_one_call_creates_one_job(database: Database) -> None:
    new = [new_job(request_id=request_id) for request_id in ("a", "b", "a", None, None, "a")]
    results = await submit_all(database, *new)
    ids = [result.id for result in results if isinstance(result, Job)]
    assert [made == job.id for made, job in zip(ids, new, strict=True)] == [
        *(True, True, False, True, True, False)
    ]
    assert ids[0] == ids[2] == ids[5] == new[0].id
    assert await count(database) == await count(database, "job_events") == 4


async def test_request_id_with_different_content_is_a_conflict(database: Database) -> None:
    first = await submit(database, request_id="once", payload="1")
    for spec in ({"payload": "2"}, {"payload": "1", "priority": 1}, {"payload": "1 "}):
        [conflict] = await submit_all(database, new_job(request_id="once", **spec))
        assert isinstance(conflict, RequestIdConflict)
        assert (conflict.kind, conflict.existing_id) == ("job", str(first.id))
    # Within one call, the first job keeps the request_id.
    good, bad = new_job(request_id="two", payload="1"), new_job(request_id="two", payload="2")
    _, conflict = await submit_all(database, good, bad)
    assert isinstance(conflict, RequestIdConflict)
    assert conflict.existing_id == str(good.id)
    assert await count(database) == 2


async def test_request_id_belongs_to_its_tenant(database: Database) -> None:
    [one] = await submit_all(database, new_job(request_id="once", payload="1"))
    [other] = await submit_all(database, new_job(request_id="once", payload="2", tenant="another"))
    assert isinstance(one, Job)
    assert isinstance(other, Job)
    assert one.id != other.id


async def test_concurrent_submits_of_a_request_create_one_job(large_pool: Database) -> None:
    new = [new_job(request_id="once") for _ in range(200)]
    async with asyncio.timeout(60):
        results = await asyncio.gather(*(submit_all(large_pool, job) for job in new))
    ids = [result.id for [result] in results if isinstance(result, Job)]
    assert len(set(ids)) == 1
    assert len(ids) == 200
    assert ids[0] in {job.id for job in new}
    assert await count(large_pool) == await count(large_pool, "job_events") == 1


async def test_submits_in_different_orders_cause_no_deadlock(
    large_pool: Database,
) -> None:
    one, other = [[new_job(request_id=key) for key in keys] for keys in ("xmz", "zmx")]
    async with large_pool.transaction() as holder:
        await submit_jobs(holder, [new_job(request_id="m")])
        # Both submits wait for the key in the middle, and must not hold a key that the other submit
        # needs.
        calls = [asyncio.create_task(submit_all(large_pool, *call)) for call in (one, other)]
        await until_blocked(large_pool, sessions=2)
        await holder.rollback()
    async with asyncio.timeout(30):
        first, second = await asyncio.gather(*calls)
    ids_by_key = {}
    for result in (*first, *second):
        assert isinstance(result, Job)
        ids_by_key.setdefault(result.request_id, set()).add(result.id)
    assert {key: len(ids) for key, ids in ids_by_key.items()} == {"m": 1, "x": 1, "z": 1}


async def test_job_and_first_event_are_stored_together(database: Database) -> None:
    job = await submit(database, labels={"team": "blue"})
    [event] = await history(database, job.id)
    assert (event.type, event.state, event.seq) == (EventType.SUBMITTED, JobState.QUEUED, 1)
    assert (event.job_type, event.queue, event.labels) == (job.type, job.queue, job.labels)
    assert event.time == job.create_time


# Batches.


async def submit_new_batch(database: Database, new: NewBatch) -> tuple[BatchId, list[Job], bool]:
    async with database.transaction() as connection:
        submitted = await submit_batch(connection, new)
    return submitted.id, list(submitted.jobs), submitted.created


def batch_of_fifty(*, request_id: str | None = None, content: bytes = b"1") -> NewBatch:
    payloads = [str(number) for number in range(50)]
    specs = [JobSpec(type="test", queue="default")] * 50
    return new_batch(specs, payloads, request_id=request_id, content=content)


async def test_batch_jobs_are_returned_in_request_order(database: Database) -> None:
    batch_id, jobs, created = await submit_new_batch(database, batch_of_fifty())
    assert created
    assert {job.batch_id for job in jobs} == {batch_id}
    stored = [await read_job(database, job.id) for job in jobs[:5]]
    assert [job.payload for job in stored] == ["0", "1", "2", "3", "4"]
    assert await count(database) == await count(database, "job_events") == 50


async def test_jobs_with_a_shared_spec_are_stored_alike(database: Database) -> None:
    async with database.transaction() as connection:
        now = await database_time(connection)
        late = dataclasses.replace(SPEC, schedule_time=now + timedelta(hours=1))
        soon = dataclasses.replace(SPEC, schedule_time=now - timedelta(hours=1))
        specs = [SPEC, late, SPEC, soon, SPEC]
        batch_result = await submit_batch(connection, new_batch(specs, ["0", "1", "2", "3", "4"]))
    stored = [await read_job(database, job_id) for job_id in batch_result.jobs.ids]
    assert [job.payload for job in stored] == ["0", "1", "2", "3", "4"]
    assert [job.state.name for job in stored] == ["QUEUED", "SCHEDULED", *["QUEUED"] * 3]
    assert list(batch_result.jobs) == [dataclasses.replace(job, payload=None) for job in stored]
    assert list(batch_result.jobs[1:3]) == [batch_result.jobs[1], batch_result.jobs[2]]
    for job in stored:
        [event] = await history(database, job.id)
        assert (event.state, event.time) == (job.state, job.create_time)
        assert event.due_time == (job.due_time if job.state is JobState.SCHEDULED else None)


async def test_batch_with_one_spec_returns_the_stored_jobs(database: Database) -> None:
    batch_id, jobs, _ = await submit_new_batch(database, new_batch([SPEC] * 3, [PAYLOAD] * 3))
    stored = [await read_job(database, job.id) for job in jobs]
    assert jobs == [dataclasses.replace(job, payload=None) for job in stored]
    assert {(job.payload, job.batch_id) for job in stored} == {(PAYLOAD, batch_id)}


async def test_repeated_batch_returns_the_same_jobs_in_order(database: Database) -> None:
    first = await submit_new_batch(database, batch_of_fifty(request_id="once"))
    repeated = await submit_new_batch(database, batch_of_fifty(request_id="once"))
    assert repeated == (first[0], first[1], False)
    assert await count(database) == 50


async def test_request_id_with_a_different_batch_is_a_conflict(database: Database) -> None:
    batch_id, _, _ = await submit_new_batch(database, batch_of_fifty(request_id="once"))
    with pytest.raises(RequestIdConflict) as excinfo:
        await submit_new_batch(database, batch_of_fifty(request_id="once", content=b"2"))
    assert (excinfo.value.kind, excinfo.value.existing_id) == ("batch", str(batch_id))
    assert await count(database) == 50


async def test_concurrent_submits_of_a_batch_create_one(large_pool: Database) -> None:
    async with asyncio.timeout(60):
        results = await asyncio.gather(
            *(submit_new_batch(large_pool, batch_of_fifty(request_id="once")) for _ in range(20))
        )
    assert sum(created for _, _, created in results) == 1
    assert len({tuple(job.id for job in jobs) for _, jobs, _ in results}) == 1
    assert await count(large_pool) == 50


async def test_batch_is_stored_all_or_nothing(database: Database) -> None:
    # The database rejects the whole batch if one job is invalid.
    bad = new_batch([SPEC] * 3, ["1", "{", "2"], request_id="once")
    with pytest.raises(Exception, match="json"):
        await submit_new_batch(database, bad)
    assert await count(database) == await count(database, "batches") == 0

"""The stream of one job: history, live events and the end, without gaps or repetitions."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.errors import JobNotFound, ShuttingDown
from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.job import DEFAULT_TENANT, Progress
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.end import end_attempts
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.streams import Watch
from headrace_gateway.streams.messages import MAX_EVENTS
from support.jobs import history, read_job, submit, submit_many
from support.watching import (
    Reader,
    follow_job,
    foreign_transaction,
    subscriptions,
    watching,
)
from support.workers import attempt_end, report, start, write_ends


async def progress(database: Database, worker_id: WorkerId, job_id: JobId, count: int) -> None:
    """Report progress of a job's first attempt."""
    steps = [
        AttemptReport(key=AttemptKey(job_id, 1), progress=Progress(fraction=n / count))
        for n in range(1, count + 1)
    ]
    assert await report(database, worker_id, *steps)


async def succeed(database: Database, worker_id: WorkerId, job_id: JobId) -> None:
    assert await write_ends(database, worker_id, attempt_end(job_id, 1, EventType.SUCCEEDED))


async def fail(database: Database, worker_id: WorkerId, job_id: JobId) -> None:
    assert await write_ends(database, worker_id, attempt_end(job_id, 1, EventType.FAILED))


async def requeue(database: Database, job_id: JobId) -> None:
    async with database.transaction() as connection:
        await requeue_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)


async def test_stream_sends_history_then_events_then_ends(
    watch: Watch, database: Database, worker_id: WorkerId
):
    job = await submit(database)
    reader = follow_job(watch, job.id)
    await reader.has(1)
    await start(database, worker_id, job)
    await reader.has(2)
    await progress(database, worker_id, job.id, 3)
    await reader.has(5)
    await succeed(database, worker_id, job.id)
    await reader.end()
    assert reader.events == await history(database, job.id)
    assert reader.events[-1].state is JobState.SUCCEEDED


async def test_late_subscriber_receives_the_same_events(
    watch: Watch, database: Database, worker_id: WorkerId
):
    job = await submit(database)
    early = follow_job(watch, job.id)
    await early.has(1)
    await start(database, worker_id, job)
    middle = follow_job(watch, job.id)
    await middle.has(1)
    await succeed(database, worker_id, job.id)
    late = follow_job(watch, job.id)
    for reader in (early, middle, late):
        await reader.end()
    assert early.events == middle.events == late.events == await history(database, job.id)


async def test_stream_starts_after_the_given_number(
    watch: Watch, database: Database, worker_id: WorkerId
):
    job = await submit(database)
    await start(database, worker_id, job)
    reader = follow_job(watch, job.id, after_seq=1)
    await reader.has(1)
    await succeed(database, worker_id, job.id)
    await reader.end()
    assert reader.seqs == [2, 3]


@pytest.mark.parametrize("after_seq", [3, 4, 2**31 - 1])
async def test_stream_of_a_fully_seen_ended_job_ends_at_once(
    watch: Watch, database: Database, worker_id: WorkerId, after_seq: int
):
    job = await submit(database)
    await start(database, worker_id, job)
    await succeed(database, worker_id, job.id)
    reader = follow_job(watch, job.id, after_seq)
    await reader.end()
    assert reader.pages == []


@pytest.mark.parametrize("after_seq", [1, 2, 3, 100, 2**31 - 1])
async def test_stream_waits_for_a_number_after_the_newest_event(
    watch: Watch, database: Database, worker_id: WorkerId, after_seq: int
):
    job = await submit(database)
    reader = follow_job(watch, job.id, after_seq=after_seq)
    await start(database, worker_id, job)
    await succeed(database, worker_id, job.id)
    # The stream still ends when the job ends.
    await reader.end()
    assert reader.seqs == [seq for seq in (1, 2, 3) if seq > after_seq]
    page = await history(database, job.id)
    assert reader.seqs == [event.seq for event in page if event.seq > after_seq]


async def test_unknown_job_is_not_found(watch: Watch, database: Database):
    job = await submit(database, tenant="other")
    for job_id in (JobId(UUID(int=7)), job.id):
        with pytest.raises(JobNotFound):
            await follow_job(watch, job_id).end()


async def test_requeued_job_is_followed_to_its_second_end(
    watch: Watch, database: Database, worker_id: WorkerId
):
    job = await submit(database)
    await start(database, worker_id, job)
    await fail(database, worker_id, job.id)
    await requeue(database, job.id)
    # The job's history has a terminal event in the middle.
    reader = follow_job(watch, job.id)
    await reader.has(4)
    [claimed] = await start(database, worker_id, await read_job(database, job.id))
    assert await write_ends(database, worker_id, attempt_end(*claimed.key, EventType.SUCCEEDED))
    await reader.end()
    assert [event.state for event in reader.events] == [
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.FAILED,
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.SUCCEEDED,
    ]


async def test_requeue_read_with_the_terminal_event_keeps_stream(
    watch: Watch, database: Database, worker_id: WorkerId
):
    job = await submit(database)
    await start(database, worker_id, job)
    reader = follow_job(watch, job.id)
    await reader.has(2)
    async with database.transaction() as connection:
        failed = [attempt_end(job.id, 1, EventType.FAILED)]
        assert await end_attempts(connection, worker_id=worker_id, ends=failed)
        await requeue_job(connection, tenant=DEFAULT_TENANT, job_id=job.id)
    await reader.has(4)
    assert not reader.task.done()
    await reader.cancel()
    assert reader.seqs == [1, 2, 3, 4]


async def test_event_without_wake_up_arrives(watch: Watch, database: Database, worker_id: WorkerId):
    job = await submit(database)
    reader = follow_job(watch, job.id)
    await reader.has(1)
    for seq, step in enumerate((start(database, worker_id, job), None), start=2):
        await (step or succeed(database, worker_id, job.id))
        await reader.has(seq)
    await reader.end()


async def test_foreign_transaction_does_not_delay_a_job(
    watch: Watch, database: Database, worker_id: WorkerId, bus: WakeBus
):
    # The transaction stays open until the stream has ended.
    async with foreign_transaction(database):
        job = await submit(database)
        reader = follow_job(watch, job.id)
        await reader.has(1)
        await start(database, worker_id, job)
        bus.publish(Topic.EVENTS)
        await reader.has(2)
        await succeed(database, worker_id, job.id)
        bus.publish(Topic.EVENTS)
        await reader.end()
    assert reader.seqs == [1, 2, 3]


async def test_long_history_is_sent_in_full(watch: Watch, database: Database, worker_id: WorkerId):
    job = await submit(database)
    await start(database, worker_id, job)
    await progress(database, worker_id, job.id, 950)
    reader = follow_job(watch, job.id)
    await reader.has(900)
    await progress(database, worker_id, job.id, 450)
    await succeed(database, worker_id, job.id)
    await reader.end()
    assert reader.seqs == list(range(1, 2 + 950 + 450 + 2))
    assert max(len(page) for page in reader.pages) <= MAX_EVENTS


async def test_slow_stream_catches_up_from_the_store(
    settings: Settings, database: Database, worker_id: WorkerId
):
    small_queue = settings.model_copy(update={"stream_queue_events": 5})
    job = await submit(database)
    await start(database, worker_id, job)
    async with watching(small_queue) as watch:
        stream = watch.watch_job(DEFAULT_TENANT, job.id, 2)
        # The reader reads the first event and then pauses.
        waiting = asyncio.create_task(anext(stream))
        await progress(database, worker_id, job.id, 1)
        first = await waiting
        fast_reader = follow_job(watch, job.id, 3)
        for _ in range(10):
            await progress(database, worker_id, job.id, 10)
        await fast_reader.has(100)
        await succeed(database, worker_id, job.id)
        await fast_reader.end()
        slow_reader = Reader(stream)
        await slow_reader.end()
        assert [e.seq for e in first] + slow_reader.seqs == list(range(3, 105))
        assert fast_reader.seqs == list(range(4, 105))
        assert watch.gauges.catch_ups >= 1
        assert watch.gauges.gaps == 0
        assert subscriptions(watch) == (0, 0, 0)


async def test_events_routed_twice_are_sent_once(
    watch: Watch, database: Database, worker_id: WorkerId
):
    job = await submit(database)
    reader = follow_job(watch, job.id)
    await reader.has(1)
    await start(database, worker_id, job)
    await progress(database, worker_id, job.id, 3)
    # All events are routed twice, as after an interrupted run.
    events = await history(database, job.id)
    watch._routes.route_visible(events + events[1:])
    await reader.has(5)
    await succeed(database, worker_id, job.id)
    await reader.end()
    assert reader.seqs == [1, 2, 3, 4, 5, 6]
    assert watch.gauges.gaps == 0


async def test_missing_event_is_read_from_the_store(
    watch: Watch, database: Database, worker_id: WorkerId
):
    job = await submit(database)
    reader = follow_job(watch, job.id)
    await reader.has(1)
    await start(database, worker_id, job)
    await progress(database, worker_id, job.id, 3)
    events = await history(database, job.id)
    watch._routes.route_visible([events[1], events[4]])
    await reader.has(5)
    await reader.cancel()
    assert reader.seqs == [1, 2, 3, 4, 5]
    assert watch.gauges.gaps == 1


async def test_every_stream_of_a_job_receives_every_event(
    watch: Watch, database: Database, worker_id: WorkerId
):
    jobs = await submit_many(database, 3)
    readers = [follow_job(watch, job.id) for job in jobs for _ in range(5)]
    for reader in readers:
        await reader.has(1)
    assert watch.gauges.job_streams == 15
    await start(database, worker_id, *jobs)
    await write_ends(
        database, worker_id, *(attempt_end(job.id, 1, EventType.SUCCEEDED) for job in jobs)
    )
    for reader in readers:
        await reader.end()
        assert reader.seqs == [1, 2, 3]
    assert watch.gauges.job_streams == 0


async def test_cancelled_stream_leaves_no_mailbox(watch: Watch, database: Database):
    job = await submit(database)
    readers = [follow_job(watch, job.id) for _ in range(20)]
    for reader in readers:
        await reader.has(1)
    assert subscriptions(watch) == (20, 1, 0)
    # Some streams are cancelled before their first read.
    early = [follow_job(watch, job.id) for _ in range(20)]
    for reader in readers + early:
        await reader.cancel()
        assert reader.task.cancelled()
    assert subscriptions(watch) == (0, 0, 0)
    assert watch.gauges.job_streams == 0


async def test_shutdown_ends_streams_and_rejects_new_ones(settings: Settings, database: Database):
    job = await submit(database)
    async with watching(settings) as watch:
        reader = follow_job(watch, job.id)
        await reader.has(1)
        await watch.stop()
        with pytest.raises(ShuttingDown):
            await reader.end()
        with pytest.raises(ShuttingDown):
            await follow_job(watch, job.id).end()

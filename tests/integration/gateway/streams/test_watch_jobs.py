"""The stream of many jobs: one cursor, without gaps or repetitions."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from headrace_core.domain.errors import CursorInvalid, ShuttingDown
from headrace_core.domain.ids import BatchId, WorkerId, uuid7
from headrace_core.domain.job import DEFAULT_TENANT, JobSpec
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.query import JobFilter
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.submit_batch import submit_batch
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import read_installation
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.streams import Mark, Watch
from headrace_gateway.streams.many import FilterStream
from headrace_gateway.streams.messages import MAX_EVENTS
from headrace_gateway.streams.timing import Timing
from headrace_gateway.tokens import decode_cursor, encode_cursor
from support.jobs import new_batch, submit, submit_many
from support.watching import (
    Reader,
    follow_job,
    follow_jobs,
    foreign_transaction,
    open_writer,
    subscriptions,
    watching,
)
from support.workers import attempt_end, start, write_ends


async def until_live(reader: Reader) -> None:
    """Wait until a stream has caught up."""
    await reader.until(lambda reader: any(page.mark is Mark.CAUGHT_UP for page in reader.pages))


async def succeed(database: Database, worker_id: WorkerId, *jobs: object) -> None:
    await write_ends(
        database, worker_id, *(attempt_end(job.id, 1, EventType.SUCCEEDED) for job in jobs)
    )


async def cursor_places(database: Database, reader: Reader) -> list[tuple[int, int]]:
    """Return the places that a stream's cursors contain."""
    async with database.transaction() as connection:
        installation = await read_installation(connection)
    return [decode_cursor(installation, DEFAULT_TENANT, page.cursor) for page in reader.pages]


async def test_stream_without_a_cursor_starts_now(watch: Watch, database: Database):
    # The gateway has routed these events, so the next stream starts after them.
    earlier = follow_jobs(watch)
    await until_live(earlier)
    await submit_many(database, 3)
    await earlier.has(3)

    reader = follow_jobs(watch)
    await until_live(reader)
    job = await submit(database)
    await reader.has(1)
    assert [event.job_id for event in reader.events] == [job.id]
    assert reader.pages[-1].mark is Mark.EVENTS
    await reader.cancel()
    await earlier.cancel()


async def test_caught_up_mark_separates_past_and_live_events(watch: Watch, database: Database):
    reader = follow_jobs(watch)
    await until_live(reader)
    cursor = reader.pages[-1].cursor
    count = 2 * MAX_EVENTS + 20
    before = await submit_many(database, count)
    await reader.has(count)
    await reader.cancel()

    resumed = follow_jobs(watch, cursor)
    await until_live(resumed)
    assert [event.job_id for event in resumed.events] == [job.id for job in before]
    assert [page.mark for page in resumed.pages] == [*[Mark.EVENTS] * 3, Mark.CAUGHT_UP]
    after = await submit(database)
    await resumed.has(count + 1)
    assert resumed.events[-1].job_id == after.id
    await resumed.cancel()


async def test_every_cursor_resumes_at_any_gateway(
    watch: Watch, settings: Settings, database: Database, worker_id: WorkerId
):
    reader = follow_jobs(watch)
    await until_live(reader)
    jobs = await submit_many(database, 60)
    await start(database, worker_id, *jobs[:40])
    await succeed(database, worker_id, *jobs[:20])
    await reader.has(120)
    async with watching(settings) as other:
        for page in reader.pages:
            behind_reader = [
                name
                for later in reader.pages[reader.pages.index(page) + 1 :]
                for name in ((event.job_id, event.seq) for event in later.events)
            ]
            resumed = follow_jobs(other, page.cursor)
            await until_live(resumed)
            await resumed.has(len(behind_reader))
            assert resumed.event_ids == behind_reader
            await resumed.cancel()
    await reader.cancel()
    cursors = await cursor_places(database, reader)
    assert cursors == sorted(cursors)


async def test_cursor_from_a_faster_gateway_repeats_no_event(
    watch: Watch, settings: Settings, database: Database
):
    ahead_reader = follow_jobs(watch)
    await until_live(ahead_reader)
    async with watching(settings) as other:
        behind_reader = follow_jobs(other)
        await until_live(behind_reader)
        # The tail of the other gateway is suspended.
        await other._tail_runner.stop()
        await submit_many(database, 5)
        await ahead_reader.has(5)
        cursor = ahead_reader.pages[-1].cursor
        resumed = follow_jobs(other, cursor)
        await until_live(resumed)
        other._tail_runner.start()
        (new,) = await submit_many(database, 1)
        await resumed.has(1)
        await behind_reader.has(6)
        assert [event.job_id for event in resumed.events] == [new.id]
        await resumed.cancel()
        await behind_reader.cancel()
    await ahead_reader.cancel()


async def test_filtered_stream_sends_matches_and_moves_cursor(
    watch: Watch, database: Database, worker_id: WorkerId
):
    unfiltered = follow_jobs(watch)
    await until_live(unfiltered)
    cursor = unfiltered.pages[-1].cursor
    batch_id = BatchId(uuid7())
    async with database.transaction() as connection:
        _, batch, _ = await submit_batch(
            connection, new_batch([JobSpec(type="test", queue="batch")] * 3, batch_id=batch_id)
        )
    math = await submit(database, queue="math", labels={"team": "ml", "stage": "test"})
    mail = await submit(database, type="email", queue="mail", labels={"team": "web"})
    await start(database, worker_id, math)
    await submit(database, tenant="other", queue="math", labels={"team": "ml"})
    filters = {
        "queues": (frozenset(["math", "mail"]), [math.id, mail.id, math.id]),
        "types": (frozenset(["email"]), [mail.id]),
        "states": (frozenset([JobState.RUNNING]), [math.id]),
        "labels": ({"team": "ml", "stage": "test"}, [math.id, math.id]),
        "batch_id": (batch_id, [job.id for job in batch]),
        "job_ids": (frozenset([mail.id, batch[0].id]), [batch[0].id, mail.id]),
    }
    await unfiltered.has(6)
    for name, (value, expected) in filters.items():
        # The same filter applies to past and live events.
        past = follow_jobs(watch, cursor, **{name: value})
        await until_live(past)
        assert [event.job_id for event in past.events] == expected, name
        # The last cursor includes the last sent event.
        assert (await cursor_places(database, past))[-1] >= (
            await cursor_places(database, unfiltered)
        )[-1]
        await past.cancel()

    readers = {
        name: follow_jobs(watch, unfiltered.pages[-1].cursor, **{name: value})
        for name, (value, _) in filters.items()
    }
    for reader in readers.values():
        await until_live(reader)
    await succeed(database, worker_id, math)
    for name in ("queues", "labels"):
        await readers[name].has(1)
        assert readers[name].events[0].state is JobState.SUCCEEDED
    for name in ("types", "states", "batch_id", "job_ids"):
        assert readers[name].events == []
    for reader in [*readers.values(), unfiltered]:
        await reader.cancel()


async def test_out_of_order_commits_are_sent_in_one_order(
    watch: Watch, database: Database, bus: WakeBus
):
    readers = [follow_jobs(watch) for _ in range(2)]
    for reader in readers:
        await until_live(reader)
    cursor = readers[0].pages[-1].cursor
    writers = [await open_writer(database) for _ in range(5)]
    ids = [(await writer.submit())[0] for writer in writers]
    for writer in reversed(writers):
        await writer.commit()
        bus.publish(Topic.EVENTS)
    readers.append(follow_jobs(watch, cursor))
    for reader in readers:
        await reader.has(5)
        assert [event.job_id for event in reader.events] == ids
        await reader.cancel()


async def test_foreign_transaction_delays_events_and_cursor(
    watch: Watch, database: Database, bus: WakeBus
):
    reader = follow_jobs(watch)
    await until_live(reader)
    async with foreign_transaction(database):
        jobs = await submit_many(database, 10)
        bus.publish(Topic.EVENTS)
        single = follow_job(watch, jobs[-1].id)
        await single.has(1)
        await single.cancel()
        await _until_lagging(watch)
        assert reader.events == []
        # A new stream receives these events as well.
        late = follow_jobs(watch, reader.pages[-1].cursor)
        await until_live(late)
    for each in (reader, late):
        await each.has(10)
        assert [event.job_id for event in each.events] == [job.id for job in jobs]
        await each.cancel()


async def _until_lagging(watch: Watch) -> None:
    async with asyncio.timeout(60):
        while watch.gauges.settled_lag < 0.1:
            await asyncio.sleep(0.01)


async def test_slow_stream_catches_up_from_the_store(
    settings: Settings, database: Database, bus: WakeBus
):
    small_queue = settings.model_copy(update={"stream_queue_events": 5})
    async with watching(small_queue) as watch:
        stream = watch.watch_jobs(DEFAULT_TENANT, JobFilter(queues=frozenset(["a"])), "")
        caught_up = await anext(stream)
        assert caught_up.mark is Mark.CAUGHT_UP
        other = follow_jobs(watch, queues=frozenset(["b"]))
        await until_live(other)
        for _ in range(20):
            await submit_many(database, 7, queue="a")
            await submit_many(database, 1, queue="b")
            bus.publish(Topic.EVENTS)
        # The slow reader does not delay the other one.
        await other.has(20)
        await other.cancel()
        reader = Reader(stream)
        await reader.has(140)
        assert len(set(reader.event_ids)) == len(reader.event_ids) == 140
        cursors = await cursor_places(database, reader)
        assert cursors == sorted(cursors)
        assert watch.gauges.catch_ups >= 1
        await submit_many(database, 1, queue="a")
        await reader.has(141)
        await reader.cancel()


async def test_quiet_stream_sends_marks_that_move_the_cursor(watch: Watch, database: Database):
    reader = Reader(quiet_stream(watch, idle=0.3))
    await until_live(reader)
    before = (await cursor_places(database, reader))[-1]
    await submit_many(database, 3, queue="b")
    unfiltered = follow_jobs(watch, reader.pages[-1].cursor)
    await unfiltered.has(3)
    end = (await cursor_places(database, unfiltered))[-1]
    await unfiltered.cancel()
    sent = len(reader.pages)
    await reader.until(lambda reader: len(reader.pages) > sent + 1)
    assert {page.mark for page in reader.pages[1:]} == {Mark.IDLE}
    assert reader.events == []
    assert before < end <= (await cursor_places(database, reader))[-1]
    await reader.cancel()


@pytest.mark.parametrize("timing", [Timing(progress=0.0)], ids=["marks"])
async def test_unmatched_past_events_move_the_cursor(watch: Watch, database: Database):
    unfiltered = follow_jobs(watch)
    await until_live(unfiltered)
    start = unfiltered.pages[0].cursor
    await submit_many(database, 1200, queue="b")
    await unfiltered.has(1200)
    await unfiltered.cancel()

    reader = follow_jobs(watch, start, queues=frozenset(["unused"]))
    await until_live(reader)
    assert [page.mark for page in reader.pages] == [Mark.IDLE, Mark.IDLE, Mark.CAUGHT_UP]
    places = await cursor_places(database, reader)
    assert places == sorted(set(places))
    await reader.cancel()


def quiet_stream(watch: Watch, *, idle: float):
    """A stream of an unused queue, with frequent idle marks."""
    installation = watch._installation
    return FilterStream(
        tenant=DEFAULT_TENANT,
        job_filter=JobFilter(queues=frozenset(["unused"])),
        after=None,
        write_cursor=lambda place: encode_cursor(installation, DEFAULT_TENANT, *place),
        tail=watch._tail,
        routes=watch._routes,
        history=watch._history,
        gauges=watch.gauges,
        idle=idle,
    ).run()


async def test_foreign_cursor_is_rejected(watch: Watch, database: Database):
    reader = follow_jobs(watch)
    await until_live(reader)
    await reader.cancel()
    cursor = reader.pages[-1].cursor
    for forged in ("x", cursor[:-2], cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")):
        with pytest.raises(CursorInvalid):
            watch.watch_jobs(DEFAULT_TENANT, JobFilter(), forged)
    with pytest.raises(CursorInvalid):
        watch.watch_jobs("other", JobFilter(), cursor)


async def test_shutdown_sends_the_last_cursor(settings: Settings, database: Database):
    async with watching(settings) as watch:
        quiet = follow_jobs(watch, queues=frozenset(["unused"]))
        idle = follow_jobs(watch)
        await until_live(quiet)
        await until_live(idle)
        await submit_many(database, 3)
        await idle.has(3)
        # The quiet stream passes these events only at its next wake-up, which is the shutdown.
        await watch.stop()
        for reader in (quiet, idle):
            with pytest.raises(ShuttingDown):
                await reader.end()
        assert quiet.pages[-1].mark is Mark.IDLE
        assert (await cursor_places(database, quiet))[-1] >= (await cursor_places(database, idle))[
            -1
        ]
    async with watching(settings) as watch:
        resumed = follow_jobs(watch, quiet.pages[-1].cursor)
        await until_live(resumed)
        assert resumed.events == []
        await resumed.cancel()


async def test_cancelled_stream_leaves_no_mailbox(watch: Watch, database: Database):
    readers = [follow_jobs(watch, queues=frozenset(["a", "b"])) for _ in range(20)]
    for reader in readers:
        await until_live(reader)
    assert subscriptions(watch) == (20, 0, 2)
    for reader in readers:
        await reader.cancel()
    assert subscriptions(watch) == (0, 0, 0)
    async with aclosing(watch.watch_jobs(DEFAULT_TENANT, JobFilter(), "")) as pages:
        async for page in pages:
            assert page.mark is Mark.CAUGHT_UP
            break
    assert subscriptions(watch) == (0, 0, 0)
    assert watch.gauges.filter_streams == 0

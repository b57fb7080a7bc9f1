"""Streams during pruning: they send every event or end with CursorExpired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from headrace_core.domain.errors import CursorExpired, JobNotFound
from headrace_core.domain.job import DEFAULT_TENANT, Job
from headrace_core.runtime.settings import Settings
from headrace_core.store.event_log import BEGINNING, EventPage, end_of, read_range
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.sql.database import Database
from headrace_gateway.streams import Mark, Watch
from headrace_gateway.streams import history as past
from support.jobs import history, submit, submit_many
from support.retention import prune
from support.until import until
from support.watching import (
    EventId,
    ManualTail,
    Reader,
    event_ids,
    follow_job,
    follow_jobs,
    watching,
)

# The jobs fill more than two pages of past events.
JOBS = 600


async def until_caught_up(reader: Reader) -> None:
    await reader.until(lambda reader: any(page.mark is Mark.CAUGHT_UP for page in reader.pages))


async def current_cursor(watch: Watch) -> str:
    reader = follow_jobs(watch)
    await until_caught_up(reader)
    await reader.cancel()
    return str(reader.pages[-1].cursor)


async def cancel(database: Database, *jobs: Job) -> None:
    for job in jobs:
        async with database.transaction() as connection:
            await cancel_job(connection, tenant=job.tenant, job_id=job.id)


async def read_log_ids(database: Database) -> list[EventId]:
    async with database.transaction() as connection:
        page = await read_range(connection, after=BEGINNING, through=end_of(2**62), limit=10_000)
    return event_ids(list(page.events))


async def until_expired(reader: Reader) -> str:
    """Wait until a stream ends with CursorExpired; return the cursor to resume from."""
    with pytest.raises(CursorExpired) as excinfo:
        await reader.end()
    return excinfo.value.oldest_cursor


@asynccontextmanager
async def suspended(watch: Watch) -> AsyncIterator[None]:
    """Suspend the gateway's tail, as on a suspended machine."""
    await watch._tail_runner.stop()
    yield
    watch._tail_runner.start()


async def test_pruned_cursor_expires_and_names_the_new_start(watch: Watch, database: Database):
    before = await current_cursor(watch)
    old, kept = await submit_many(database, 2)
    await cancel(database, old)
    at_start = follow_jobs(watch, before)
    await at_start.has(3)
    await at_start.cancel()
    (newer,) = await submit_many(database, 1)
    assert (await prune(database)).jobs == 1

    oldest = await until_expired(follow_jobs(watch, before))
    # The cursor after the last pruned event is the oldest one, and it is valid.
    assert oldest == at_start.pages[-1].cursor
    resumed = follow_jobs(watch, oldest)
    await until_caught_up(resumed)
    await resumed.has(1)
    assert resumed.event_ids == [(newer.id, 1)]
    await resumed.cancel()
    with pytest.raises(JobNotFound):
        await follow_job(watch, old.id).end()
    assert await read_log_ids(database) == [(kept.id, 1), (newer.id, 1)]


async def test_live_stream_survives_pruning(watch: Watch, database: Database):
    reader = follow_jobs(watch)
    await until_caught_up(reader)
    jobs = await submit_many(database, 5)
    await cancel(database, *jobs)
    await reader.has(10)
    assert (await prune(database)).jobs == 5
    (new,) = await submit_many(database, 1)
    await reader.has(11)
    assert reader.event_ids[-1] == (new.id, 1)
    assert watch.gauges.catch_ups == 0
    # All sent events are pruned, but the stream's cursor is still valid.
    resumed = follow_jobs(watch, reader.pages[-2].cursor)
    await resumed.has(1)
    assert resumed.event_ids == [(new.id, 1)]
    await resumed.cancel()
    await reader.cancel()


async def test_stream_continues_after_all_events_were_pruned(
    watch: Watch, settings: Settings, database: Database
):
    before = await current_cursor(watch)
    jobs = await submit_many(database, 3)
    await cancel(database, *jobs)
    assert (await prune(database)).jobs == 3
    # This gateway starts after the pruning.
    async with watching(settings) as other:
        await until_expired(follow_jobs(other, before))
        now = await current_cursor(other)
        (new,) = await submit_many(database, 1)
        resumed = follow_jobs(other, now)
        await resumed.has(1)
        assert resumed.event_ids == [(new.id, 1)]
        await resumed.cancel()


async def test_pruned_events_of_another_tenant_leave_no_gap(watch: Watch, database: Database):
    before = await current_cursor(watch)
    (ours,) = await submit_many(database, 1)
    (theirs,) = await submit_many(database, 1, tenant="other")
    await cancel(database, theirs)
    assert (await prune(database, tenant="other")).jobs == 1
    reader = follow_jobs(watch, before)
    await reader.has(1)
    assert reader.event_ids == [(ours.id, 1)]
    await reader.cancel()


@pytest.mark.parametrize("page", [7, 50, 300])
async def test_stream_during_pruning_has_no_gap(watch: Watch, database: Database, page: int):
    before = await current_cursor(watch)
    jobs = await submit_many(database, JOBS)
    for number in range(0, JOBS, 50):
        async with database.transaction() as connection:
            for job in jobs[number : number + 50]:
                await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job.id)
    (kept,) = await submit_many(database, 1)
    all_ids = await read_log_ids(database)
    assert all_ids[-1] == (kept.id, 1)

    readers: list[Reader] = []

    def ended(reader: Reader) -> bool:
        return reader.task.done() or len(reader.events) >= len(all_ids)

    async def read() -> None:
        for _ in range(12):
            reader = follow_jobs(watch, before)
            readers.append(reader)
            await until(lambda reader=reader: reader.pages or ended(reader))

    async def prune_all() -> None:
        await until(lambda: readers and readers[0].pages)
        while (await prune(database, limit=page)).jobs:
            pass

    async with asyncio.timeout(60):
        await asyncio.gather(read(), prune_all())
    for reader in readers:
        await until(lambda reader=reader: ended(reader))
        assert reader.event_ids == all_ids[: len(reader.events)]
        if reader.task.done():
            await until_expired(reader)
        else:
            await reader.cancel()
    await until_expired(follow_jobs(watch, before))
    assert await read_log_ids(database) == all_ids[-1:]


@pytest.mark.parametrize("pruned", ["before", "after"])
async def test_page_pruned_during_its_read_expires_the_cursor(
    watch: Watch, database: Database, monkeypatch: pytest.MonkeyPatch, pruned: str
):
    """The events of a page are pruned immediately before or after its read."""
    before = await current_cursor(watch)
    await cancel(database, *await submit_many(database, 3))
    (kept,) = await submit_many(database, 1)
    all_ids = await read_log_ids(database)
    # The new stream reads these events as past events.
    seen = follow_jobs(watch, before)
    await seen.has(len(all_ids))
    await seen.cancel()

    async def read_and_prune(*args: Any, **options: Any) -> EventPage:
        if pruned == "before":
            assert (await prune(database)).jobs == 3
        page = await read_range(*args, **options)
        if pruned == "after":
            assert (await prune(database)).jobs == 3
            assert event_ids(list(page.events)) == all_ids
        return page

    monkeypatch.setattr(past, "read_range", read_and_prune)
    reader = follow_jobs(watch, before)
    oldest = await until_expired(reader)
    assert reader.events == []
    monkeypatch.undo()
    resumed = follow_jobs(watch, oldest)
    await resumed.has(1)
    assert resumed.event_ids == [(kept.id, 1)]
    await resumed.cancel()


async def test_suspension_longer_than_retention_expires_streams(watch: Watch, database: Database):
    all_queues, other_queue = follow_jobs(watch), follow_jobs(watch, queues=frozenset(["other"]))
    await until_caught_up(all_queues)
    await until_caught_up(other_queue)
    (job, kept) = await submit_many(database, 2)
    await all_queues.has(2)
    of_job, of_kept = follow_job(watch, job.id), follow_job(watch, kept.id)
    await of_job.has(1)
    await of_kept.has(1)
    seen = len(all_queues.events)
    async with suspended(watch):
        await cancel(database, job)
        (later,) = await submit_many(database, 1, queue="other")
        assert (await prune(database)).jobs == 1
    oldest = await until_expired(all_queues)
    assert len(all_queues.events) == seen
    assert await until_expired(other_queue) == oldest
    with pytest.raises(JobNotFound):
        await of_job.end()
    # Streams that start at the oldest cursor have no gap.
    resumed = follow_jobs(watch, oldest)
    await resumed.has(1)
    await cancel(database, kept)
    await of_kept.has(2)
    await of_kept.end()
    await resumed.has(2)
    assert resumed.event_ids == [(later.id, 1), (kept.id, 2)]
    assert watch.gauges.gaps == 0
    await resumed.cancel()


async def test_suspension_expires_only_streams_of_pruned_tenants(watch: Watch, database: Database):
    reader = follow_jobs(watch)
    await until_caught_up(reader)
    async with suspended(watch):
        (first,) = await submit_many(database, 1)
        (theirs,) = await submit_many(database, 1, tenant="other")
        await cancel(database, theirs)
        assert (await prune(database, tenant="other")).jobs == 1
        (second,) = await submit_many(database, 1)
    (third,) = await submit_many(database, 1)
    await reader.has(3)
    assert reader.event_ids == [(first.id, 1), (second.id, 1), (third.id, 1)]
    await reader.cancel()


async def test_database_of_another_cluster_is_logged_once(settings: Settings, database: Database):
    tail = ManualTail(settings, database)
    with capture_logs() as logs:
        await tail.start()
        await submit(database)
        await tail.run()
        assert logs == []
        job = await submit(database)
        async with database.transaction() as connection:
            await connection.execute(
                text(
                    "UPDATE job_events SET xid = '1000000000000', writer = '1000000000000' "
                    "WHERE job_id = :id"
                ),
                {"id": job.id},
            )
        for _ in range(5):
            await tail.tail.run_once()
    (logged,) = logs
    assert logged["event"] == "database_of_another_cluster"
    assert logged["log_level"] == "error"
    assert "python -m headrace_core migrate" in logged["advice"]
    assert len(await history(database, job.id)) == 1

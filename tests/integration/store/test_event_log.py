"""The event log: reads of unseen and settled events, and the costs of these reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text

from headrace_core.domain.lifecycle import EventType
from headrace_core.store.event_log import (
    BEGINNING,
    EventPage,
    Place,
    SeenEvents,
    end_of,
    list_events,
    place_of,
    read_end,
    read_range,
    read_unseen,
)
from headrace_core.store.jobs.end import end_attempts
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from support.jobs import submit, submit_many
from support.watching import event_ids, foreign_transaction, open_writer
from support.workers import attempt_end, register, start

NOTHING_SEEN = SeenEvents(top=BEGINNING, open={})

EVENT_COUNT = 20_000
INSERT_EVENTS = """
    INSERT INTO job_events (job_id, seq, xid, tenant, type, state, attempt, time)
    SELECT ('01900000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 1,
        pg_current_xact_id(), 'default',
        'submitted', 'queued', 0, now()
    FROM generate_series(1, :events) n
"""
# The maximum number of rows that one call may read, including index entries.
MAX_ROWS_READ = 50
ROWS_READ = text("""
    SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)
    FROM pg_stat_xact_user_tables WHERE relname = 'job_events'
""")


async def unseen(
    database: Database, seen: SeenEvents, limit: int = 100
) -> tuple[EventPage, SeenEvents]:
    """Return a page of unseen events, and the updated set of seen events."""
    async with database.statement() as connection:
        reading = await read_unseen(connection, seen=seen, limit=limit)
        return reading.page, reading.seen


async def settled_range(
    database: Database, after: Place, through: Place, limit: int = 100
) -> EventPage:
    async with database.transaction() as connection:
        return await read_range(connection, after=after, through=through, limit=limit)


async def test_empty_log_ends_at_its_beginning(database: Database):
    async with database.statement() as connection:
        end = await read_end(connection)
    assert (end.seen.top, end.settled) == (BEGINNING, BEGINNING)
    page, _ = await unseen(database, NOTHING_SEEN)
    assert page == EventPage(events=[], end=None, complete=True)


async def test_log_ends_at_the_place_of_its_last_event(database: Database):
    jobs = await submit_many(database, 3)
    async with foreign_transaction(database):
        newest = await submit(database)
        async with database.statement() as connection:
            end = await read_end(connection)
    page, _ = await unseen(database, NOTHING_SEEN)
    assert [event.job_id for event in page.events] == [job.id for job in [*jobs, newest]]
    assert place_of(page.events[2]) == end.settled
    assert page.end == place_of(page.events[3]) == end.seen.top


async def test_unseen_events_of_open_transactions_are_read_once(database: Database):
    early, late = await open_writer(database), await open_writer(database)
    await early.submit()
    (second,) = await late.submit()
    await late.commit()
    page, seen = await unseen(database, NOTHING_SEEN)
    assert [event.job_id for event in page.events] == [second]
    assert seen == SeenEvents(top=place_of(page.events[0]), open={early.xid: BEGINNING})
    (first,) = await early.submit()
    await early.commit()
    page, seen = await unseen(database, seen)
    assert [event.xid for event in page.events] == [early.xid, early.xid]
    assert page.events[1].job_id == first
    assert seen == SeenEvents(top=seen.top, open={})
    page, _ = await unseen(database, seen)
    assert page.events == []


async def test_transaction_after_the_last_event_is_not_recorded(database: Database):
    await submit(database)
    above = await open_writer(database)
    _, seen = await unseen(database, NOTHING_SEEN)
    assert seen.open == {}
    (job_id,) = await above.submit()
    await above.commit()
    page, _ = await unseen(database, seen)
    assert [event.job_id for event in page.events] == [job_id]


async def test_read_after_a_full_page_misses_no_event(
    database: Database,
):
    """Open transactions end while later events are read."""
    worker_id = await register(database)
    writers = [await open_writer(database) for _ in range(4)]
    for writer in writers:
        await writer.submit(3)
    job = await submit(database)
    await start(database, worker_id, job)
    page, seen = await unseen(database, NOTHING_SEEN)
    assert seen.open == {writer.xid: BEGINNING for writer in writers}
    read, new = event_ids(page.events), []
    # The xid of this event is higher than that of its writer, whose transaction ends last.
    ends = [attempt_end(job.id, 1, EventType.SUCCEEDED)]
    older_writer = writers.pop(0)
    await end_attempts(older_writer.connection, worker_id=worker_id, ends=ends)
    await writers.pop(1).commit()
    complete = False
    while not complete:
        page, seen = await unseen(database, seen, limit=2)
        complete = page.complete
        new += event_ids(page.events)
        if writers:
            await writers.pop().commit()
            await submit(database)
        elif older_writer is not None:
            await older_writer.commit()
            older_writer = None
    page, _ = await unseen(database, seen)
    new += event_ids(page.events)
    assert len(new) == 4 * 3 + 1 + 2
    all_unseen, seen = await unseen(database, NOTHING_SEEN)
    assert sorted(read + new) == sorted(event_ids(all_unseen.events))
    page, _ = await unseen(database, seen)
    assert page.events == []


async def test_settled_range_is_read_in_pages(database: Database):
    await submit_many(database, 7)
    page, _ = await unseen(database, NOTHING_SEEN)
    places = [place_of(event) for event in page.events]
    first = await settled_range(database, places[0], places[5], limit=3)
    assert [place_of(event) for event in first.events] == places[1:4]
    assert (first.end, first.complete) == (places[3], False)
    second = await settled_range(database, places[3], places[5], limit=3)
    assert [place_of(event) for event in second.events] == places[4:6]
    assert second.complete
    all_settled = await settled_range(database, BEGINNING, end_of(places[0][0]))
    assert len(all_settled.events) == 7


async def test_event_of_a_pruned_job_counts_toward_its_page(database: Database):
    jobs = await submit_many(database, 3)
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": jobs[2].id})
    page = await settled_range(database, BEGINNING, end_of(2**62), limit=3)
    assert [event.job_id for event in page.events] == [jobs[0].id, jobs[1].id]
    assert not page.complete
    assert page.end is not None
    assert page.end > place_of(page.events[-1])


Read = Callable[[Connection], Awaitable[object]]


@pytest.mark.parametrize("analyzed", [True, False])
async def test_cost_of_a_read_depends_on_its_page(database: Database, analyzed: bool):
    """An open transaction keeps 20,000 events unsettled; ten of them are new."""
    early = await open_writer(database)
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE job_events SET (autovacuum_enabled = off)"))
        await connection.execute(text(INSERT_EVENTS), {"events": EVENT_COUNT})
        if analyzed:
            await connection.execute(text("ANALYZE job_events"))
    async with database.transaction() as connection:
        end = await read_end(connection)
        assert await connection.scalar(ROWS_READ) <= MAX_ROWS_READ
    assert end.seen.open == {early.xid: BEGINNING}
    await early.submit(5)
    await early.commit()
    jobs = await submit_many(database, 5)
    async with database.transaction() as connection:
        page = (await read_unseen(connection, seen=end.seen, limit=100)).page
        assert [event.xid for event in page.events[:5]] == [early.xid] * 5
        assert [event.job_id for event in page.events[5:]] == [job.id for job in jobs]
        assert await connection.scalar(ROWS_READ) <= MAX_ROWS_READ
    async with database.transaction() as connection:
        page = await read_range(connection, after=end.settled, through=end_of(2**62), limit=10)
        assert len(page.events) == 5
        assert page.end is not None
        assert await connection.scalar(ROWS_READ) <= MAX_ROWS_READ


@pytest.mark.parametrize("analyzed", [True, False])
async def test_cost_of_a_history_page_depends_on_the_page(database: Database, analyzed: bool):
    job, other = await submit_many(database, 2)
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE job_events SET (autovacuum_enabled = off)"))
        await connection.execute(
            text(
                "INSERT INTO job_events "
                "(job_id, seq, xid, tenant, type, state, attempt, time, progress) "
                "SELECT :id, n, pg_current_xact_id(), 'default', 'progressed', 'running', 1, "
                "now(), '{}' FROM generate_series(2, :events) n"
            ),
            {"id": job.id, "events": EVENT_COUNT},
        )
        if analyzed:
            await connection.execute(text("ANALYZE job_events"))
    async with database.transaction() as connection:
        for job_id, after_seq, expected in (
            (job.id, 0, [1]),
            (other.id, 0, [1]),
            (job.id, EVENT_COUNT, []),
            (other.id, 1, []),
        ):
            events = (
                await list_events(
                    connection, tenant="default", job_id=job_id, after_seq=after_seq, limit=1
                )
            ).events
            assert [event.seq for event in events] == expected
        assert await connection.scalar(ROWS_READ) <= MAX_ROWS_READ

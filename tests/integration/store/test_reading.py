"""Queries: jobs, their histories and their statistics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.errors import JobNotFound
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import DEFAULT_TENANT, Job, JobEvent, Progress
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.query import Comparison, Query
from headrace_core.store.event_log import (
    EventPage,
    Place,
    SeenEvents,
    end_of,
    list_events,
    list_output,
    read_end,
    read_range,
    read_unseen,
)
from headrace_core.store.jobs.read import database_time, get_job, list_jobs, read_stats
from headrace_core.store.sql.database import Database
from support.jobs import history, read_job, set_column, submit, submit_many
from support.states import prepare_job
from support.workers import attempt_end, register, report, start, write_ends


async def list_matching(
    database: Database,
    *clauses: tuple[Comparison, ...],
    limit: int = 1000,
    before: JobId | None = None,
    tenant: str = DEFAULT_TENANT,
    full: bool = False,
) -> list[Job]:
    async with database.transaction() as connection:
        return await list_jobs(
            connection, tenant=tenant, query=clauses, limit=limit, before=before, full=full
        )


def comparison(field: str, operator: str, value: Any = "", key: str = "") -> Comparison:
    return Comparison(field=field, operator=operator, value=value, key=key)


async def test_pages_are_newest_first_despite_inserts(
    database: Database,
) -> None:
    jobs = await submit_many(database, 10)
    await submit(database, tenant="another")
    pages = [await list_matching(database, limit=4)]
    while pages[-1]:
        # A job created between the reads of two pages belongs before the first page.
        await submit(database)
        pages.append(await list_matching(database, limit=4, before=pages[-1][-1].id))
    assert [job.id for page in pages for job in page] == [job.id for job in reversed(jobs)]
    assert [len(page) for page in pages] == [4, 4, 2, 0]


async def test_listed_job_equals_the_read_job(database: Database) -> None:
    prepared = await prepare_job(database, JobState.SUCCEEDED)
    job = await read_job(database, prepared.job.id)
    assert await list_matching(database, full=True) == [job]
    [basic] = await list_matching(database)
    assert (basic.payload, basic.result) == (None, None)
    async with database.transaction() as connection:
        assert basic == await get_job(connection, tenant=DEFAULT_TENANT, job_id=job.id, full=False)


@pytest.fixture
async def jobs(database: Database) -> dict[str, Job]:
    """Jobs that differ in every filterable field."""
    jobs_by_name = {
        "plain": await submit(database),
        "mail": await submit(database, type="mail", queue="fast", priority=5, request_id="r-1"),
        "blue": await submit(database, labels={"team": "blue", "env": "test"}, priority=-5),
        "red": await submit(database, labels={"team": "red", "": "", "ü '": 'x"y'}),
    }
    worker_id = await register(database)
    jobs_by_name["done"] = await submit(database, type="mail", labels={"team": "blue"})
    await start(database, worker_id, jobs_by_name["done"])
    await write_ends(database, worker_id, attempt_end(jobs_by_name["done"].id, 1, SUCCEEDED))
    return {name: await read_job(database, job.id) for name, job in jobs_by_name.items()}


SUCCEEDED = "succeeded"
NOW = datetime.now(UTC)

FILTERS: list[tuple[tuple[tuple[Comparison, ...], ...], set[str]]] = [
    ((), {"plain", "mail", "blue", "red", "done"}),
    (((comparison("type", "=", "mail"),),), {"mail", "done"}),
    (((comparison("type", "!=", "mail"),),), {"plain", "blue", "red"}),
    (((comparison("queue", "=", "fast"),),), {"mail"}),
    (((comparison("state", "=", JobState.SUCCEEDED),),), {"done"}),
    (((comparison("state", "!=", JobState.SUCCEEDED),),), {"plain", "mail", "blue", "red"}),
    (((comparison("priority", ">", 0),),), {"mail"}),
    (((comparison("priority", "<=", 0),),), {"plain", "blue", "red", "done"}),
    (((comparison("attempt", ">=", 1),),), {"done"}),
    (((comparison("request_id", "=", "r-1"),),), {"mail"}),
    (((comparison("request_id", "!=", "r-1"),),), {"plain", "blue", "red", "done"}),
    (
        ((comparison("create_time", "<", NOW + timedelta(days=1)), comparison("type", "=", "-")),),
        set("*"),
    ),
    (((comparison("create_time", ">=", NOW + timedelta(days=1)),),), set()),
    (((comparison("end_time", ">", NOW - timedelta(days=1)),),), {"done"}),
    (((comparison("end_time", "!=", NOW),),), set("*")),
    (((comparison("schedule_time", ">", NOW - timedelta(days=1)),),), set("*")),
    (((comparison("labels", "=", "blue", "team"),),), {"blue", "done"}),
    (((comparison("labels", "!=", "blue", "team"),),), {"plain", "mail", "red"}),
    (((comparison("labels", ":", "", "team"),),), {"blue", "red", "done"}),
    (((comparison("labels", ":", "", "env"),),), {"blue"}),
    (((comparison("labels", ":", "", ""),),), {"red"}),
    (((comparison("labels", "=", 'x"y', "ü '"),),), {"red"}),
    (((comparison("labels", "=", "blue", "' OR true --"),),), set()),
    (
        ((comparison("labels", "=", "red", "team"), comparison("queue", "=", "fast")),),
        {"red", "mail"},
    ),
    (((comparison("labels", "=", "blue", "team"),), (comparison("type", "=", "mail"),)), {"done"}),
    (((comparison("type", "=", "mail"),), (comparison("type", "=", "test"),)), set()),
]


async def test_filter_finds_matching_jobs(database: Database, jobs: dict[str, Job]) -> None:
    names = {job.id: name for name, job in jobs.items()}
    for query, expected in FILTERS:
        matching = await list_matching(database, *query)
        every = set(names.values()) if expected == set("*") else expected
        assert {names[job.id] for job in matching} == every, query


async def test_filter_finds_jobs_by_worker_and_by_batch(
    database: Database, jobs: dict[str, Job]
) -> None:
    worker_id = jobs["done"].worker_id
    by_worker: Query = ((comparison("worker_id", "=", worker_id),),)
    assert [job.id for job in await list_matching(database, *by_worker)] == [jobs["done"].id]
    await set_column(database, jobs["plain"].id, f"batch_id = '{worker_id}'")
    by_worker = ((comparison("batch_id", "=", worker_id),),)
    assert [job.id for job in await list_matching(database, *by_worker)] == [jobs["plain"].id]


async def test_job_of_another_tenant_is_not_found(database: Database) -> None:
    job = await submit(database, tenant="another")
    for job_id in (job.id, JobId(uuid7())):
        async with database.transaction() as connection:
            with pytest.raises(JobNotFound):
                await get_job(connection, tenant=DEFAULT_TENANT, job_id=job_id, full=True)
            with pytest.raises(JobNotFound):
                await list_events(
                    connection, tenant=DEFAULT_TENANT, job_id=job_id, after_seq=0, limit=10
                )
    assert await list_matching(database) == []


# Histories.


async def test_history_is_read_in_pages(database: Database) -> None:
    prepared = await prepare_job(database, JobState.SUCCEEDED)
    full_history = await history(database, prepared.job.id)

    async def page(after_seq: int, limit: int) -> list[JobEvent]:
        async with database.transaction() as connection:
            return (
                await list_events(
                    connection,
                    tenant=DEFAULT_TENANT,
                    job_id=prepared.job.id,
                    after_seq=after_seq,
                    limit=limit,
                )
            ).events

    assert [event.seq for event in full_history] == [1, 2, 3]
    assert await page(0, 2) == full_history[:2]
    assert await page(2, 2) == full_history[2:]
    assert await page(3, 2) == await page(100, 2) == []


# Statistics.


async def test_stats_count_by_queue_type_and_state(
    database: Database, jobs: dict[str, Job]
) -> None:
    await submit(database, tenant="another")
    before = datetime.now(UTC)
    async with database.transaction() as connection:
        stats = await read_stats(connection, tenant=DEFAULT_TENANT)
    assert stats.counts == [
        ("default", "mail", JobState.SUCCEEDED, 1),
        ("default", "test", JobState.QUEUED, 3),
        ("fast", "mail", JobState.QUEUED, 1),
    ]
    assert abs(stats.time - before) < timedelta(minutes=1)


async def test_queue_age_is_the_age_of_its_oldest_job(
    database: Database,
) -> None:
    old = await submit(database, type="a")
    await submit(database, type="b")
    await set_column(database, old.id, "queue_time = now() - interval '1 h'")
    running = await prepare_job(database, JobState.RUNNING)
    await set_column(database, running.job.id, "queue_time = now() - interval '9 h', queue = 'x'")
    async with database.transaction() as connection:
        stats = await read_stats(connection, tenant=DEFAULT_TENANT)
    assert set(stats.oldest) == {"default"}
    age = stats.age("default")
    assert age is not None
    assert timedelta(hours=1) <= age < timedelta(hours=2)
    assert stats.age("x") is None


async def test_stats_without_jobs_contain_only_the_time(database: Database) -> None:
    async with database.transaction() as connection:
        stats = await read_stats(connection, tenant=DEFAULT_TENANT)
        now = await database_time(connection)
    assert (stats.counts, stats.oldest) == ([], {})
    assert stats.time <= now


async def test_event_pages_are_limited_by_bytes(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    job_id = prepared.job.id
    pieces = [
        AttemptReport(key=AttemptKey(job_id, 1), output=f'"{"x" * 300_000}{number}"')
        for number in range(9)
    ]
    async with database.statement() as connection:
        log_end = await read_end(connection)
    for piece in pieces:
        await report(database, prepared.worker_id, piece)
    one = {"tenant": DEFAULT_TENANT, "job_id": job_id, "limit": 200}

    async def read_listed(after: int | None) -> tuple[EventPage, int]:
        async with database.statement() as connection:
            page = await list_events(connection, **one, after_seq=after or 2)
        return page, page.events[-1].seq

    async def read_outputs(after: int | None) -> tuple[EventPage, int]:
        async with database.statement() as connection:
            page = await list_output(connection, **one, after_seq=after or 0)
        return page, page.events[-1].seq

    async def read_ranged(after: Place | None) -> tuple[EventPage, Place]:
        async with database.statement() as connection:
            page = await read_range(
                connection, after=after or log_end.settled, through=end_of(2**62), limit=200
            )
        assert page.end is not None
        return page, page.end

    async def read_unseen_events(seen: SeenEvents | None) -> tuple[EventPage, SeenEvents]:
        async with database.statement() as connection:
            unseen_page = await read_unseen(connection, seen=seen or log_end.seen, limit=200)
        return unseen_page.page, unseen_page.seen

    for read in (read_listed, read_outputs, read_ranged, read_unseen_events):
        sizes, outputs, after, complete = [], [], None, False
        while not complete:
            page, after = await read(after)
            complete = page.complete
            sizes.append(len(page.events))
            outputs += [event.output for event in page.events]
        # The page includes the event that exceeds its byte limit.
        assert sizes == [4, 4, 1], read
        assert outputs == [piece.output for piece in pieces], read


async def test_oversized_progress_is_truncated(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    # PostgreSQL compresses the second value to a small size.
    for content in (
        "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 100000) n)",
        "repeat('a', 200000)",
    ):
        large = (
            "progress = json_build_object('fraction', 0.5, 'message', 'ä', "
            f"'counters', json_build_object('n', {content}))"
        )
        async with database.transaction() as connection:
            await connection.execute(text("SET LOCAL session_replication_role = replica"))
            await connection.execute(
                text("ALTER TABLE job_events DROP CONSTRAINT job_events_progress_check")
            )
            await connection.execute(text(f"UPDATE jobs SET {large}"))
            await connection.execute(text(f"UPDATE job_events SET {large} WHERE seq = 2"))
            cut = Progress(fraction=0.5, message="ä", counters="{}")
            job_id, tenant = prepared.job.id, DEFAULT_TENANT
            job = await get_job(connection, tenant=tenant, job_id=job_id, full=False)
            page = await list_jobs(
                connection, tenant=tenant, query=(), limit=9, before=None, full=True
            )
            events = (
                await list_events(connection, tenant=tenant, job_id=job_id, after_seq=1, limit=9)
            ).events
            assert [job.progress, page[0].progress, events[0].progress] == [cut, cut, cut]
            await connection.rollback()

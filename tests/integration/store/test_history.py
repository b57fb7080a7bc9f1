"""The history of each minute: each settled event is counted once."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from headrace_core.domain.durations import bucket_of
from headrace_core.domain.errors import StaleTerm
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.monitor import HistoryPoint
from headrace_core.store.history import add_events, prune_history, read_history, read_place
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.leadership import take_lead
from headrace_core.store.sql.database import Database
from headrace_scheduler.loops.roll_up import RollUp
from headrace_scheduler.metrics import Gauges
from support import workers
from support.jobs import submit

TENANT = "default"


@pytest.fixture
async def term(database: Database) -> int:
    async with database.statement() as conn:
        term = await take_lead(conn, holder=uuid4(), lease=timedelta(minutes=10))
    assert term is not None
    return term


async def run_jobs(database: Database) -> None:
    """Submit four jobs: one succeeds, one is retried, one fails and one is cancelled."""
    worker_id = await workers.register(database)
    jobs = [await submit(database) for _ in range(4)]
    for job, event in zip(
        jobs, (EventType.SUCCEEDED, EventType.RETRY_SCHEDULED, EventType.FAILED), strict=False
    ):
        await workers.claim(database, worker_id, [workers.AttemptKey(job.id, 1)])
        end = workers.attempt_end(job.id, 1, event)
        assert await workers.write_ends(database, worker_id, end)
    async with database.transaction() as conn:
        await cancel_job(conn, tenant=TENANT, job_id=jobs[3].id, principal=None, reason=None)


def roll_up(database: Database, term: int, **options: object) -> RollUp:
    options.setdefault("retention", timedelta(days=8))
    options.setdefault("gauges", Gauges())
    return RollUp(database=database, term=term, **options)


async def totals(database: Database, **selected: object) -> HistoryPoint:
    """Return the sum of the last two minutes."""
    async with database.snapshot(statement_timeout=10) as conn:
        points = await read_history(
            conn, tenant=TENANT, points=2, step=timedelta(minutes=1), **selected
        )
    first, last = points
    assert last.time - first.time == timedelta(minutes=1)
    return HistoryPoint(
        time=last.time,
        counts={name: first.counts[name] + last.counts[name] for name in last.counts},
        waits={
            bucket: first.waits.get(bucket, 0) + last.waits.get(bucket, 0)
            for bucket in {*first.waits, *last.waits}
        },
        runs={
            bucket: first.runs.get(bucket, 0) + last.runs.get(bucket, 0)
            for bucket in {*first.runs, *last.runs}
        },
    )


EXPECTED = {
    "submitted": 4,
    "started": 3,
    "retried": 1,
    "succeeded": 1,
    "failed": 1,
    "cancelled": 1,
}


@pytest.mark.parametrize("page", [1, 3, 2000])
async def test_events_are_counted_once(page: int, database: Database, term: int) -> None:
    await run_jobs(database)
    loop = roll_up(database, term, page=page)
    await loop.run_once()
    await loop.run_once()
    # Another leader continues after the stored place.
    await roll_up(database, term).run_once()
    point = await totals(database)
    assert point.counts == EXPECTED
    assert sum(point.waits.values()) == 3
    assert sum(point.runs.values()) == 3


async def test_later_events_are_added_to_their_minute(database: Database, term: int) -> None:
    loop = roll_up(database, term)
    for _ in range(2):
        await run_jobs(database)
        await loop.run_once()
    point = await totals(database)
    assert point.counts == {name: 2 * count for name, count in EXPECTED.items()}
    assert sum(point.waits.values()) == 6


async def test_unsettled_events_are_added_later(database: Database, term: int) -> None:
    loop = roll_up(database, term)
    async with database.transaction() as open_transaction:
        await open_transaction.execute(text("SELECT pg_current_xact_id()"))
        await run_jobs(database)
        await loop.run_once()
        assert (await totals(database)).counts["submitted"] == 0
    await loop.run_once()
    assert (await totals(database)).counts == EXPECTED


async def test_buckets_match_the_durations(database: Database, term: int) -> None:
    worker_id = await workers.register(database)
    job = await submit(database)
    await workers.claim(database, worker_id, [workers.AttemptKey(job.id, 1)])
    end = workers.attempt_end(job.id, 1, EventType.SUCCEEDED)
    assert await workers.write_ends(database, worker_id, end)
    async with database.transaction() as conn:
        await conn.execute(
            text(
                "UPDATE job_events SET time = time - CASE seq WHEN 1 THEN interval '42 s' "
                "WHEN 2 THEN interval '3 s' ELSE interval '0' END"
            )
        )
        rows = await conn.execute(
            text("SELECT extract(epoch FROM time)::double precision FROM job_events ORDER BY seq")
        )
    queued, started, ended = (row[0] for row in rows)
    await roll_up(database, term).run_once()
    point = await totals(database)
    assert point.waits == {bucket_of(started - queued): 1}
    assert point.runs == {bucket_of(ended - started): 1}


async def test_history_is_limited_to_queues_and_types(database: Database, term: int) -> None:
    await submit(database, queue="mail", type="a")
    await submit(database, queue="mail", type="b")
    await submit(database, queue="slow", type="b")
    await roll_up(database, term).run_once()
    for selected, expected in (
        ({}, 3),
        ({"queues": ["mail"]}, 2),
        ({"types": ["b"]}, 2),
        ({"queues": ["slow"], "types": ["a"]}, 0),
    ):
        assert (await totals(database, **selected)).counts["submitted"] == expected


async def test_scheduler_without_the_lead_adds_nothing(database: Database, term: int) -> None:
    await run_jobs(database)
    async with database.statement() as conn:
        place = await read_place(conn)
    with pytest.raises(StaleTerm):
        async with database.transaction() as conn:
            await add_events(conn, term=term + 1, after=place, limit=100)
    # A page that was added before is refused, whatever the term.
    async with database.transaction() as conn:
        assert (await add_events(conn, term=term, after=place, limit=100)).events > 0
    with pytest.raises(StaleTerm):
        async with database.transaction() as conn:
            await add_events(conn, term=term, after=place, limit=100)
    assert (await totals(database)).counts == EXPECTED


async def test_old_minutes_are_removed(database: Database, term: int) -> None:
    await run_jobs(database)
    await roll_up(database, term).run_once()
    async with database.transaction() as conn:
        await conn.execute(text("UPDATE job_minutes SET minute = minute - interval '8 days'"))
    await submit(database)
    await roll_up(database, term).run_once()
    async with database.statement() as conn:
        assert await conn.scalar(text("SELECT count(*) FROM job_minutes")) == 1
    with pytest.raises(StaleTerm):
        async with database.statement() as conn:
            await prune_history(conn, term=term + 1, older_than=timedelta(0), limit=10)

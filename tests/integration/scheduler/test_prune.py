"""The prune loop: it removes all old jobs, pauses between pages, and logs unread events."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from structlog.testing import capture_logs

from headrace_core.domain.job import Job
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.retention import Retention, parse_rules
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.sql.database import Database
from headrace_scheduler.loops.prune import Prune
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.service import Scheduler
from headrace_scheduler.timing import Timing
from support.jobs import set_column, submit_many
from support.leading import lead
from support.retention import until_settled
from support.until import until

DAY = timedelta(days=1)


async def prune(database: Database, **options: Any) -> float:
    """Run the loop once."""
    defaults: dict[str, Any] = {
        "gauges": Gauges(),
        "retention": Retention(default=DAY),
        "subscription_retention": 2 * DAY,
        "audit_retention": 3 * DAY,
    }
    loop = Prune(database=database, term=await lead(database), **{**defaults, **options})
    return await loop.run_once()


async def create_ended(database: Database, count: int, *, days: float, **job: Any) -> list[Job]:
    """Create jobs that ended some days ago."""
    jobs = await submit_many(database, count, **job)
    async with database.transaction() as connection:
        for one in jobs:
            await cancel_job(connection, tenant=one.tenant, job_id=one.id)
        await connection.execute(
            text(
                "UPDATE jobs SET end_time = end_time - CAST(:age AS interval) "
                "WHERE id = ANY(CAST(:ids AS uuid[]))"
            ),
            {"age": timedelta(days=days), "ids": [one.id for one in jobs]},
        )
    await until_settled(database)
    return jobs


async def count_jobs_and_events(database: Database) -> tuple[int, int]:
    """Count jobs and events."""
    async with database.transaction() as connection:
        row = await connection.execute(
            text("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM job_events)")
        )
        jobs, events = row.one()
    return jobs, events


async def test_run_prunes_old_jobs_of_all_tenants(database: Database) -> None:
    await create_ended(database, 45, days=1.5)
    await create_ended(database, 10, days=1.5, tenant="other")
    await create_ended(database, 3, days=0.5)
    with capture_logs() as logs:
        assert await prune(database, page=20) == 60
    assert await count_jobs_and_events(database) == (3, 6)
    assert {(log["tenant"], log["jobs"], log["events"]) for log in logs} == {
        ("default", 45, 90),
        ("other", 10, 20),
    }
    with capture_logs() as logs:
        assert await prune(database) == 60
    assert logs == []


async def test_unread_pruned_jobs_are_logged_once_per_subscription(database: Database) -> None:
    jobs = await create_ended(database, 5, days=3)
    await create_ended(database, 1, days=1.5)
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO subscriptions (tenant, name, filter, xid, position) "
                "VALUES ('default', 'billing', '{}', '0', 0)"
            )
        )
    with capture_logs() as logs:
        await prune(database, page=2)
    assert await count_jobs_and_events(database) == (1, 2)
    (warning,) = (log for log in logs if log["log_level"] == "warning")
    assert (warning["event"], warning["tenant"], warning["subscription"], warning["jobs"]) == (
        "unread_jobs_pruned",
        "default",
        "billing",
        5,
    )
    assert not any(str(job.id) in str(logs) for job in jobs)


async def test_run_removes_all_events_of_a_job_with_many_events(database: Database) -> None:
    await create_ended(database, 1, days=1.5)
    (long,) = await create_ended(database, 1, days=3)
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO job_events (job_id, seq, xid, tenant, type, state, attempt, time) "
                "SELECT :id, n, pg_current_xact_id(), 'default', 'requeued', 'queued', 0, now() "
                "FROM generate_series(3, 12000) n"
            ),
            {"id": long.id},
        )
        await connection.execute(
            text("UPDATE jobs SET seq = 12000, xid = pg_current_xact_id() WHERE id = :id"),
            {"id": long.id},
        )
    await until_settled(database)
    await prune(database, timing=Timing(prune_rest=0))
    assert await count_jobs_and_events(database) == (0, 0)


async def test_retention_rules_apply_per_tenant_and_state(database: Database) -> None:
    rules = parse_rules("failed=10d, acme=2d, acme/failed=5d")
    for tenant in ("default", "acme"):
        for state in (JobState.CANCELLED, JobState.FAILED):
            for days in (1.5, 3, 7, 12):
                [job] = await create_ended(database, 1, days=days, tenant=tenant)
                if state is JobState.FAILED:
                    error = '{"type": "E", "message": "", "retryable": false}'
                    await set_column(database, job.id, f"state = 'failed', error = '{error}'")
    gauges = Gauges()
    await prune(database, gauges=gauges, retention=Retention(default=DAY, rules=rules))
    async with database.statement() as connection:
        remaining = await connection.execute(
            text(
                "SELECT tenant, state, count(*) FROM jobs "
                "GROUP BY tenant, state ORDER BY tenant, state"
            )
        )
    assert [tuple(row) for row in remaining] == [
        ("acme", "cancelled", 1),
        ("acme", "failed", 2),
        ("default", "failed", 3),
    ]
    assert gauges.pruned == 16 - 6


async def test_prune_pauses_for_the_duration_of_its_work(database: Database) -> None:
    await create_ended(database, 3, days=2)
    pauses: list[float] = []

    async def record_pause(seconds: float) -> None:
        pauses.append(seconds)

    # Each reading advances the clock, by one second more than the previous reading.
    clock = itertools.accumulate(itertools.count())
    await prune(database, page=1, sleep=record_pause, clock=lambda: float(next(clock)))
    assert pauses == [1, 3, 5]
    pauses.clear()
    await create_ended(database, 1, days=2)
    await prune(database, page=1, sleep=record_pause, clock=lambda: 0.0)
    assert pauses == [0.05]


async def test_leading_scheduler_prunes(settings: Settings, database: Database) -> None:
    await create_ended(database, 2, days=2)
    await create_ended(database, 2, days=0.1)
    changes = {"retention": 86_400.0, "subscription_retention": 86_400.0}
    scheduler = Scheduler(settings.model_copy(update=changes))
    await scheduler.start()
    try:

        async def is_pruned() -> bool:
            return await count_jobs_and_events(database) == (2, 4)

        await until(is_pruned)
    finally:
        await scheduler.stop()

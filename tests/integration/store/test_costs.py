"""The cost of a statement depends on its result, not on the number of stored rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.query import Comparison
from headrace_core.store.event_log import list_events
from headrace_core.store.jobs.cancel import cancel_job, cancel_requests
from headrace_core.store.jobs.claim import claim_jobs
from headrace_core.store.jobs.end import end_attempts
from headrace_core.store.jobs.promote import next_due, promote_due
from headrace_core.store.jobs.read import list_jobs
from headrace_core.store.jobs.recover import expire_overdue, recover_lost
from headrace_core.store.jobs.report import write_reports
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.jobs.waiting import live_pools, ready_jobs
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from support.jobs import new_job
from support.leading import lead
from support.workers import attempt_end, register

JOBS = 20_000
# The maximum number of job rows that a statement below may read.
MAX_ROWS_READ = 400

INSERT_JOBS = """
    INSERT INTO jobs (id, tenant, type, queue, payload, priority, labels, deadline, request_id,
        fingerprint, state, attempt, seq, rank, worker_id, create_time, due_time, queue_time,
        start_time, end_time, result, error, update_time)
    SELECT
        ('01900000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'default',
        CASE WHEN n % 4 = 0 THEN 'unserved' ELSE 'test' END, 'queue ' || n % 3, '{}', 0,
        CASE WHEN n % 5 = 0 THEN jsonb_build_object('user', 'u' || n) ELSE '{}' END,
        now() + interval '1 day', 'r' || n, 'f', state,
        (state IN ('running', 'retrying', 'succeeded', 'failed'))::integer, 3, n,
        CASE WHEN state NOT IN ('queued', 'scheduled') THEN CAST(:worker_id AS uuid) END, now(),
        CASE WHEN state IN ('scheduled', 'retrying') THEN now() + interval '1 day' ELSE now() END,
        now(), now(),
        CASE WHEN state IN ('succeeded', 'failed') THEN now() END,
        CASE WHEN state = 'succeeded' THEN '{}'::json END,
        CASE WHEN state IN ('failed', 'retrying')
            THEN '{"type": "E", "message": "", "retryable": true}'::json END,
        now()
    FROM (
        SELECT n, (ARRAY['queued', 'scheduled', 'running', 'retrying', 'succeeded', 'failed'])
            [1 + n % 6] AS state
        FROM generate_series(1, :jobs) n
    ) AS numbered
"""

ROWS_READ = text("""
    SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)
    FROM pg_stat_xact_user_tables WHERE relname = 'jobs'
""")

Execute = Callable[[Connection], Awaitable[object]]


@pytest.fixture(params=["analyzed", "not analyzed"])
async def statements(database: Database, request: pytest.FixtureRequest) -> dict[str, Execute]:
    """Return every statement, with arguments for a database with many jobs.

    Each statement was planned on empty tables, where a plan may choose to read all rows.
    """
    worker_id, term = await register(database), await lead(database)
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE jobs SET (autovacuum_enabled = off)"))
    for statement in statements_for([], [], worker_id, term).values():
        # PostgreSQL caches a plan after five executions.
        for _ in range(6):
            async with database.transaction() as connection:
                await statement(connection)
                await connection.rollback()
    async with database.transaction() as connection:
        await connection.execute(text(INSERT_JOBS), {"worker_id": worker_id, "jobs": JOBS})
        queued, running = [
            list(
                await connection.scalars(
                    text("SELECT id FROM jobs WHERE state = :state AND type = 'test' LIMIT 20"),
                    {"state": state},
                )
            )
            for state in ("queued", "running")
        ]
    statements = statements_for(queued, running, worker_id, term)
    if request.param != "analyzed":
        return {
            name: statement
            for name, statement in statements.items()
            if name not in PLANNED_WITHOUT_STATISTICS
        }
    async with database.transaction() as connection:
        await connection.execute(text("ANALYZE jobs, job_events"))
    return statements


def statements_for(
    queued: list[JobId], running: list[JobId], worker_id: WorkerId, term: int
) -> dict[str, Execute]:
    deliveries = [AttemptKey(job_id, 1) for job_id in queued]
    ends = [attempt_end(job_id, 1, EventType.SUCCEEDED) for job_id in running]
    reports = [AttemptReport(key=AttemptKey(job_id, 1), output="1") for job_id in running]
    one: dict[str, Any] = {"tenant": DEFAULT_TENANT, "job_id": (queued or [worker_id])[0]}
    label = (Comparison(field="labels", operator="=", key="user", value="u100"),)
    repeated_jobs = [new_job(request_id=f"r{number}") for number in range(1, 21)]

    async def history(connection: Connection) -> None:
        if queued:
            await list_events(connection, **one, after_seq=0, limit=100)

    async def cancel(connection: Connection) -> None:
        if queued:
            await cancel_job(connection, **one)
            await requeue_job(connection, **one)

    def listing(*query: tuple[Comparison, ...]) -> Execute:
        return lambda c: list_jobs(
            c, tenant=DEFAULT_TENANT, query=query, limit=50, before=None, full=False
        )

    return {
        "submit": lambda c: submit_jobs(c, repeated_jobs),
        "promote_due": lambda c: promote_due(c, term=term, limit=1000),
        "next_due": next_due,
        "ready_jobs": lambda c: ready_jobs(c, pools=["pool"], limit=100),
        "claim_jobs": lambda c: claim_jobs(c, worker_id=worker_id, deliveries=deliveries),
        "end_attempts": lambda c: end_attempts(c, worker_id=worker_id, ends=ends),
        "write_reports": lambda c: write_reports(c, worker_id=worker_id, reports=reports),
        "cancel_requests": lambda c: cancel_requests(c, worker_id=worker_id),
        "recover_lost": lambda c: recover_lost(c, term=term, limit=500, max_losses=3),
        "expire_overdue": lambda c: expire_overdue(
            c, term=term, limit=500, running_grace=timedelta()
        ),
        "cancel and requeue": cancel,
        "list_events": history,
        "list_jobs": listing(),
        "list_jobs by label": listing(label),
        "live_pools": live_pools,
        "live_pools in a term": lambda c: live_pools(c, term=term),
    }


# Statements that count the running jobs, so their cost grows with the number of running jobs.
COUNT_RUNNING_JOBS = {"live_pools", "live_pools in a term", "cancel_requests"}
# Statements with bad plans until the first ANALYZE, which autovacuum runs within a minute.
PLANNED_WITHOUT_STATISTICS = {"list_jobs"}


async def test_statement_reads_no_more_rows_than_it_needs(
    database: Database, statements: dict[str, Execute], subtests: pytest.Subtests
) -> None:
    for name, statement in statements.items():
        if name in COUNT_RUNNING_JOBS:
            continue
        with subtests.test(statement=name):
            async with database.transaction() as connection:
                before = await connection.scalar(ROWS_READ)
                await statement(connection)
                read = await connection.scalar(ROWS_READ) - before
                await connection.rollback()
            assert read <= MAX_ROWS_READ

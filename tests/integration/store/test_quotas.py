"""Quotas that the database counts: submits never exceed them, and ended jobs free their share."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from sqlalchemy import text

from headrace_core.domain.errors import QuotaExceeded
from headrace_core.domain.job import DEFAULT_TENANT, Job, JobSpec
from headrace_core.domain.tenant import Quota
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.jobs.submit_metered import admit_requeue, submit_metered_batch
from headrace_core.store.sql.database import Database
from headrace_core.store.usage import (
    correct_payload_bytes,
    count_payload_bytes,
    read_usage,
    take_recount,
)
from support.jobs import new_batch, new_job, submit, submit_many
from support.leading import lead
from support.retention import prune
from support.tenants import limit_tenant, submit_metered
from support.workers import register, start


def outcomes(results: list[object]) -> Counter[str]:
    return Counter(type(result).__name__ for result in results)


async def cancel(database: Database, job: Job) -> None:
    async with database.transaction() as conn:
        await cancel_job(conn, tenant=job.tenant, job_id=job.id)


async def test_concurrent_submits_fill_the_quota_exactly(
    database: Database, large_pool: Database
) -> None:
    tenant = await limit_tenant(database, waiting_jobs=50)
    groups = [[new_job() for _ in range(7)] for _ in range(20)]
    results = await asyncio.gather(*(submit_metered(large_pool, tenant, jobs) for jobs in groups))
    flat = [result for group in results for result in group]
    assert outcomes(flat) == {"Job": 50, "QuotaExceeded": 90}
    async with database.transaction() as conn:
        assert await conn.scalar(text("SELECT count(*) FROM jobs")) == 50


async def test_started_and_cancelled_jobs_free_their_share(database: Database) -> None:
    tenant = await limit_tenant(database, waiting_jobs=3)
    first, second, _ = await submit_metered(database, tenant, [new_job() for _ in range(3)])
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    [refused] = await submit_metered(database, tenant, [new_job()])
    assert isinstance(refused, QuotaExceeded)
    assert (refused.quota, refused.limit, refused.used) == (Quota.WAITING_JOBS, 3, 3)
    await start(database, await register(database), first)
    await cancel(database, second)
    results = await submit_metered(database, tenant, [new_job() for _ in range(3)])
    assert outcomes(results) == {"Job": 2, "QuotaExceeded": 1}


async def test_jobs_older_than_the_quota_count(database: Database) -> None:
    await submit_many(database, 2)
    tenant = await limit_tenant(database, waiting_jobs=3)
    results = await submit_metered(database, tenant, [new_job() for _ in range(4)])
    # The second count includes the jobs that the first group submitted.
    assert outcomes(results) == {"Job": 1, "QuotaExceeded": 3}


async def test_repeated_submit_at_the_quota_returns_its_job(database: Database) -> None:
    tenant = await limit_tenant(database, waiting_jobs=1)
    once = new_job(request_id="once")
    [accepted] = await submit_metered(database, tenant, [once])
    repeated, other = await submit_metered(
        database, tenant, [new_job(request_id="once"), new_job(request_id="other")]
    )
    assert isinstance(accepted, Job)
    assert isinstance(repeated, Job)
    assert repeated.id == accepted.id
    assert isinstance(other, QuotaExceeded)
    async with database.transaction() as conn:
        usage = await read_usage(conn, tenant=DEFAULT_TENANT)
    assert (usage.waiting_jobs, usage.jobs_today) == (1, 1)


async def test_daily_quota_is_reset_at_midnight(database: Database) -> None:
    tenant = await limit_tenant(database, jobs_per_day=2)
    results = await submit_metered(database, tenant, [new_job() for _ in range(3)])
    assert outcomes(results) == {"Job": 2, "QuotaExceeded": 1}
    refused = results[-1]
    assert isinstance(refused, QuotaExceeded)
    assert refused.quota == Quota.JOBS_PER_DAY
    assert 0 < refused.retry_after <= 86_400
    async with database.transaction() as conn:
        await conn.execute(text("UPDATE tenant_usage SET day = day - 1"))
    results = await submit_metered(database, tenant, [new_job() for _ in range(3)])
    assert outcomes(results) == {"Job": 2, "QuotaExceeded": 1}


async def test_pruned_payloads_free_their_share(database: Database) -> None:
    tenant = await limit_tenant(database, payload_bytes=100)
    payload = '"' + "é" * 24 + '"'
    assert len(payload.encode()) == 50
    jobs = [new_job(payload=payload) for _ in range(3)]
    results = await submit_metered(database, tenant, jobs)
    assert outcomes(results) == {"Job": 2, "QuotaExceeded": 1}
    assert isinstance(results[0], Job)
    await cancel(database, results[0])
    assert (await prune(database)).jobs == 1
    results = await submit_metered(database, tenant, [new_job(payload=payload) for _ in range(2)])
    assert outcomes(results) == {"Job": 1, "QuotaExceeded": 1}


async def test_count_includes_earlier_payloads(database: Database) -> None:
    await submit(database, payload='"123"')
    tenant = await limit_tenant(database, payload_bytes=100)
    await submit_metered(database, tenant, [new_job(payload='"1234567"')])
    term = await lead(database)
    async with database.statement() as conn:
        assert await take_recount(conn, term=term) is None
        await conn.execute(text("UPDATE tenant_usage SET recount_time = now()"))
        assert await take_recount(conn, term=term) == DEFAULT_TENANT
        # No second count starts while one is running.
        assert await take_recount(conn, term=term) is None
    async with database.snapshot(statement_timeout=10) as conn:
        difference = await count_payload_bytes(conn, tenant=DEFAULT_TENANT)
        # The count includes a submit that ran during the count.
        await submit_metered(database, tenant, [new_job(payload='"1"')])
    async with database.statement() as conn:
        await correct_payload_bytes(conn, tenant=DEFAULT_TENANT, difference=difference)
        assert difference == 5
        usage = await read_usage(conn, tenant=DEFAULT_TENANT)
    assert usage.payload_bytes == 5 + 9 + 3


async def test_batch_beyond_a_quota_is_rejected_as_a_whole(database: Database) -> None:
    tenant = await limit_tenant(database, waiting_jobs=3)
    spec = JobSpec(type="test", queue="default")
    async with database.transaction() as conn:
        await submit_metered_batch(
            conn, new_batch([spec] * 2, request_id="a"), quotas=tenant.effective
        )
    with pytest.raises(QuotaExceeded):
        async with database.transaction() as conn:
            await submit_metered_batch(
                conn, new_batch([spec] * 2, request_id="b"), quotas=tenant.effective
            )
    async with database.transaction() as conn:
        repeated = await submit_metered_batch(
            conn, new_batch([spec] * 2, request_id="a"), quotas=tenant.effective
        )
    assert not repeated.created
    async with database.statement() as conn:
        assert (await read_usage(conn, tenant=DEFAULT_TENANT)).waiting_jobs == 2


async def test_requeue_at_the_waiting_quota_is_rejected(database: Database) -> None:
    tenant = await limit_tenant(database, waiting_jobs=1, jobs_per_day=2)
    [ended] = await submit_metered(database, tenant, [new_job()])
    assert isinstance(ended, Job)
    await cancel(database, ended)
    [waiting] = await submit_metered(database, tenant, [new_job()])
    assert isinstance(waiting, Job)
    with pytest.raises(QuotaExceeded):
        async with database.transaction() as conn:
            await admit_requeue(conn, tenant=DEFAULT_TENANT, quotas=tenant.effective)
    await cancel(database, waiting)
    async with database.transaction() as conn:
        # The daily quota is exhausted, but it counts only new jobs.
        await admit_requeue(conn, tenant=DEFAULT_TENANT, quotas=tenant.effective)
        await requeue_job(conn, tenant=DEFAULT_TENANT, job_id=ended.id)


async def test_tenant_without_counted_quota_has_no_usage_row(database: Database) -> None:
    await limit_tenant(database, waiting_jobs=1)
    await limit_tenant(database, open_streams=1)
    async with database.statement() as conn:
        assert await conn.scalar(text("SELECT count(*) FROM tenant_usage")) == 0
        usage = await read_usage(conn, tenant=DEFAULT_TENANT)
    assert (usage.payload_bytes, usage.jobs_today) == (None, None)

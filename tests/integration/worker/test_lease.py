"""A worker that cannot renew its lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_worker.service import WorkerService
from support.handlers import handlers
from support.platform import DEADLINE_S, Platform, platform
from support.proxy import Proxy
from support.until import until


@asynccontextmanager
async def worker_through(proxy: Proxy, settings: Settings) -> AsyncIterator[WorkerService]:
    """Run a worker that reaches PostgreSQL through a proxy."""
    worker = WorkerService(
        settings.model_copy(update={"database_url": SecretStr(proxy.url)}), handlers()
    )
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[Proxy]:
    proxy = Proxy(settings.postgresql_url)
    await proxy.start()
    yield proxy
    proxy.release()
    await proxy.cut()


@pytest.fixture
async def jobs(settings: Settings) -> AsyncIterator[Platform]:
    adjusted = settings.model_copy(
        update={"shutdown_grace": 0.1, "redeliver_after": 600.0, "worker_lease": 3.0}
    )
    async with platform(adjusted, handlers(), workers=0) as running:
        yield running


async def test_worker_without_postgresql_returns_its_deliveries(
    jobs: Platform, proxy: Proxy, redis: Redis
) -> None:
    async with worker_through(proxy, jobs.settings) as worker:
        running_job = await jobs.submit("t.forever")
        first = await jobs.until(running_job, E.STARTED)
        proxy.hold()
        waiting = await jobs.submit("t.echo")
        # The scheduler does not redeliver in this test, so the worker must return the deliveries.
        await until(lambda: worker.counts.lease_losses)
        await until(lambda: not worker.running)
        await until(lambda: redis.keys("headrace:*:queue:*"))
        proxy.release()
        assert (await jobs.until_ended(waiting)).state is JobState.SUCCEEDED
        restarted = await until_started_again(jobs, running_job)
        assert restarted != first.worker_id
        await jobs.cancel(running_job)
        await jobs.until_ended(running_job)


async def test_short_postgresql_outage_keeps_the_lease(jobs: Platform, proxy: Proxy) -> None:
    async with worker_through(proxy, jobs.settings) as worker:
        running_job = await jobs.submit("t.forever")
        await jobs.until(running_job, E.STARTED)
        await proxy.cut()
        await proxy.start()
        ids = await jobs.submit_many(5, "t.echo")
        assert {(await jobs.until_ended(job_id)).state for job_id in ids} == {JobState.SUCCEEDED}
        assert worker.counts.lease_losses == 0
        assert (await jobs.job(running_job)).attempt == 1
        await jobs.cancel(running_job)
        await jobs.until_ended(running_job)


async def until_started_again(jobs: Platform, job_id: JobId) -> object:
    async with asyncio.timeout(DEADLINE_S):
        while (event := await jobs.until(job_id, E.STARTED)).attempt == 1:
            await jobs.wait_for_wake_up()
    return event.worker_id

"""Worker metrics, scraped over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.retry import RetryOverrides
from headrace_core.runtime.settings import Settings
from headrace_worker.metrics import ENDS
from headrace_worker.service import WorkerService
from support.handlers import handlers
from support.platform import Platform, platform
from support.scraping import scrape, scrape_until


@pytest.fixture
def metrics_settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"worker_metrics_address": "127.0.0.1:0", "shutdown_grace": 0.1}
    )


@pytest.fixture
async def jobs(metrics_settings: Settings) -> AsyncIterator[Platform]:
    async with platform(metrics_settings, handlers(), workers=0) as running:
        yield running


@pytest.fixture
async def worker(metrics_settings: Settings, jobs: Platform) -> AsyncIterator[WorkerService]:
    worker = WorkerService(metrics_settings, handlers())
    await worker.start()
    yield worker
    await worker.stop()


async def test_attempts_are_counted_by_end(jobs: Platform, worker: WorkerService) -> None:
    before = await scrape(worker.metrics_port)
    assert before['headrace_attempts_ended_total{event="succeeded"}'] == 0
    assert before["headrace_slots"] == jobs.settings.worker_slots
    await asyncio.gather(*(jobs.until_ended(i) for i in await jobs.submit_many(3, "t.echo")))
    await jobs.until_ended(await jobs.submit("t.hopeless"))
    await jobs.until_ended(
        await jobs.submit("t.flaky", '{"number": 1}', retry=RetryOverrides(max_attempts=2))
    )
    after = await scrape_until(
        worker.metrics_port, lambda samples: samples["headrace_attempts_running"] == 0
    )
    ended = {event: after[f'headrace_attempts_ended_total{{event="{event}"}}'] for event in ENDS}
    assert ended == {
        E.SUCCEEDED: 4,
        E.FAILED: 1,
        E.RETRY_SCHEDULED: 1,
        E.INTERRUPTED: 0,
        E.CANCELLED: 0,
        E.EXPIRED: 0,
        E.WORKER_LOST: 0,
    }


async def test_abandoned_handler_is_counted(jobs: Platform, worker: WorkerService) -> None:
    job_id = await jobs.submit("t.ignore_cancel_once")
    await jobs.until(job_id, E.STARTED)
    assert (await scrape(worker.metrics_port))["headrace_attempts_running"] == 1
    await jobs.cancel(job_id)
    await jobs.until_ended(job_id)
    assert (await scrape(worker.metrics_port))["headrace_handlers_left_behind_total"] == 1


async def test_refused_end_and_lost_lease_are_counted(
    jobs: Platform, worker: WorkerService
) -> None:
    job_id = await jobs.submit("t.emit_forever")
    await jobs.until(job_id, E.OUTPUT)
    async with jobs.database.transaction() as connection:
        await connection.execute(text("DELETE FROM workers"))
    await jobs.until(job_id, E.WORKER_LOST)
    await scrape_until(
        worker.metrics_port,
        lambda samples: (
            samples['headrace_writes_refused_total{write="finish"}'] == 1
            and samples["headrace_lease_losses_total"] == 1
        ),
    )
    await jobs.cancel(job_id)

"""Jobs that stop their worker repeatedly, and the worker's other jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.retry import INTERRUPTIONS_BEFORE_OWN_PROCESS
from headrace_core.runtime.settings import Settings
from headrace_core.wake import Topic
from support.handlers import handlers
from support.jobs import set_column
from support.platform import DEADLINE_S, Platform, platform
from support.processes import worker_process

INTERRUPTIONS = INTERRUPTIONS_BEFORE_OWN_PROCESS


@pytest.fixture
async def jobs(settings: Settings) -> AsyncIterator[Platform]:
    low_limit = settings.model_copy(
        update={"max_interruptions": INTERRUPTIONS, "shutdown_grace": 0.1}
    )
    async with platform(low_limit, handlers(), workers=0) as running:
        yield running


async def submit_interrupted_job(jobs: Platform, payload: str) -> JobId:
    """Submit a job that signals its process and already has INTERRUPTIONS interruptions."""
    later = datetime.now(UTC) + timedelta(hours=1)
    job_id = await jobs.submit("t.send_sigterm", payload, schedule_time=later)
    values = f"attempt = {INTERRUPTIONS}, interruptions = {INTERRUPTIONS}, due_time = now()"
    await set_column(jobs.database, job_id, values)
    jobs.bus.publish(Topic.JOBS)
    return job_id


async def test_job_that_repeatedly_stops_its_worker_fails(jobs: Platform, tmp_path: Path) -> None:
    async with worker_process(jobs.settings, tmp_path) as worker:
        other_job = await jobs.submit("t.forever")
        await jobs.until(other_job, E.STARTED)
        # The job runs in a child process of the worker and signals the worker.
        job_id = await submit_interrupted_job(jobs, "true")
        assert await asyncio.to_thread(worker.wait_until_ended, within=DEADLINE_S) == 0
    job = await jobs.job(job_id)
    assert (job.state, job.attempt, job.retries_used) == (JobState.FAILED, INTERRUPTIONS + 1, 0)
    assert (await jobs.history(job_id))[-1] is E.FAILED
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == ("INTERRUPTED", False)
    assert f"{INTERRUPTIONS + 1} times in a row" in job.error.message
    assert (await jobs.history(other_job))[-1] is E.INTERRUPTED
    assert (await jobs.job(other_job)).state is JobState.QUEUED


async def test_interrupted_job_cannot_stop_its_worker(jobs: Platform, tmp_path: Path) -> None:
    async with worker_process(jobs.settings, tmp_path) as worker:
        job = await jobs.until_ended(await submit_interrupted_job(jobs, "false"))
        assert worker.running
        assert job.result not in {None, str(worker.pid)}
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, INTERRUPTIONS + 1)


async def test_job_that_stops_its_worker_once_is_requeued(jobs: Platform, tmp_path: Path) -> None:
    async with worker_process(jobs.settings, tmp_path) as worker:
        job_id = await jobs.submit("t.send_sigterm", "false")
        assert await asyncio.to_thread(worker.wait_until_ended, within=DEADLINE_S) == 0
    assert await jobs.history(job_id) == [E.SUBMITTED, E.STARTED, E.INTERRUPTED]

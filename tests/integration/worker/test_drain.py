"""Drain: a signal stops a worker with running attempts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_worker.timing import Timing
from support.handlers import handlers
from support.platform import DEADLINE_S, Platform, platform
from support.processes import is_running, worker_process
from support.until import until

GRACE_S = 2.0


@pytest.fixture
async def jobs(settings: Settings) -> AsyncIterator[Platform]:
    # A cancelled handler may run longer than the test waits for the shutdown.
    adjusted = settings.model_copy(
        update={"shutdown_grace": GRACE_S, "worker_cancel_grace": 10 * DEADLINE_S}
    )
    async with platform(adjusted, handlers(), workers=0) as running:
        yield running


async def test_worker_stops_after_grace_period_despite_handlers(
    jobs: Platform, tmp_path: Path
) -> None:
    cancel_ignoring = ("t.forever", "t.ignore_cancel", "t.ignore_cancel_thread", "t.spin")
    async with worker_process(jobs.settings, tmp_path) as worker:
        ids = [await jobs.submit(job_type) for job_type in cancel_ignoring]
        for job_id in ids:
            await jobs.until(job_id, E.STARTED)
        # The process of the last handler is running.
        await jobs.until(ids[-1], E.OUTPUT)
        started = time.monotonic()
        code = await asyncio.to_thread(worker.terminate, within=DEADLINE_S)
        assert time.monotonic() - started >= GRACE_S
    assert code == 0
    # The documented limit is two seconds after the grace period.
    assert Timing().stop_margin < 2
    for job_id in ids:
        job = await jobs.job(job_id)
        assert (job.state, job.attempt, job.retries_used) == (JobState.QUEUED, 1, 0)
        assert (await jobs.history(job_id))[-1] is E.INTERRUPTED


async def test_signal_to_the_process_group_does_not_end_handlers(
    jobs: Platform, tmp_path: Path
) -> None:
    async with worker_process(jobs.settings, tmp_path) as worker:
        job_id = await jobs.submit("t.sleep_in_process", '{"number": 500}')
        await jobs.until(job_id, E.OUTPUT)
        os.killpg(worker.pid, signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait_until_ended, within=DEADLINE_S) == 0
    job = await jobs.job(job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


async def test_handler_processes_end_with_a_killed_worker(jobs: Platform, tmp_path: Path) -> None:
    async with worker_process(jobs.settings, tmp_path) as worker:
        job_id = await jobs.submit("t.fork", "false")
        pids = json.loads((await jobs.until(job_id, E.OUTPUT)).output or "")
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: not any(map(is_running, pids)))


async def test_idle_worker_stops_at_once(jobs: Platform, tmp_path: Path) -> None:
    long_grace = jobs.settings.model_copy(update={"shutdown_grace": 10 * DEADLINE_S})
    async with worker_process(long_grace, tmp_path) as worker:
        assert await asyncio.to_thread(worker.terminate, within=DEADLINE_S) == 0

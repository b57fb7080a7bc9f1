"""A worker whose event loop is blocked, or whose process is suspended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_worker.watchdog import EXIT_CODE
from support.handlers import handlers
from support.platform import DEADLINE_S, Platform, platform
from support.processes import worker_process


@pytest.fixture
def short_lease_settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"worker_lease": 1.5, "worker_beat": 0.5, "worker_watchdog": 3.0}
    )


@pytest.fixture
async def jobs(short_lease_settings: Settings) -> AsyncIterator[Platform]:
    async with platform(short_lease_settings, handlers(), workers=0) as running:
        yield running


async def test_blocked_worker_exits_and_its_job_runs_again(jobs: Platform, tmp_path: Path) -> None:
    async with worker_process(jobs.settings, tmp_path) as worker:
        job_id = await jobs.submit("t.block_loop", '{"number": 600}')
        await jobs.until(job_id, E.STARTED)
        # The scheduler has recovered the job before the blocked worker exits.
        await jobs.until(job_id, E.WORKER_LOST)
        code = await asyncio.to_thread(worker.wait_until_ended, within=DEADLINE_S)
    assert code == EXIT_CODE
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    [last] = [line for line in lines if line["event"] == "event_loop_blocked"]
    assert last["job_ids"] == [str(job_id)]
    assert "block_the_loop" in last["frames"][-1]


async def test_suspended_worker_registers_with_a_new_id(jobs: Platform, tmp_path: Path) -> None:
    async with worker_process(jobs.settings, tmp_path) as worker:
        job_id = await jobs.submit("t.forever")
        first = await jobs.until(job_id, E.STARTED)
        os.kill(worker.pid, signal.SIGSTOP)
        await jobs.until(job_id, E.WORKER_LOST)
        os.kill(worker.pid, signal.SIGCONT)
        async with asyncio.timeout(DEADLINE_S):
            while (restarted := await jobs.until(job_id, E.STARTED)).attempt == 1:
                await jobs.wait_for_wake_up()
        assert restarted.worker_id != first.worker_id
        assert worker.running
        await jobs.cancel(job_id)
        assert (await jobs.until_ended(job_id)).state is JobState.CANCELLED
    assert [e.attempt for e in await jobs.events(job_id) if e.type is E.STARTED] == [1, 2]

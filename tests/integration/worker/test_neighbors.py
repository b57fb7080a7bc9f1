"""A handler that attacks its worker's event loop does not affect other jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from support.handlers import handlers
from support.platform import Platform, platform
from support.processes import worker_process
from support.server import Server


@pytest.fixture
async def jobs(settings: Settings) -> AsyncIterator[Platform]:
    async with platform(settings, handlers(), workers=0) as running:
        yield running


@pytest.fixture
async def worker(jobs: Platform, tmp_path: Path) -> AsyncIterator[Server]:
    async with worker_process(jobs.settings, tmp_path) as running:
        yield running


async def _assert_clean_stop(worker: Server) -> None:
    within = 10.0
    assert worker.running
    assert await asyncio.to_thread(worker.terminate, within=within) == 0


async def test_exit_in_a_task_fails_its_own_job_only(jobs: Platform, worker: Server) -> None:
    neighbor = await jobs.submit("t.forever")
    await jobs.until(neighbor, E.STARTED)
    ways = {
        "wait_for": {"SystemExit"},
        "gather": {"SystemExit", "KeyboardInterrupt"},
        "create_task": {"SystemExit"},
        "group": {"KeyboardInterrupt"},
        "executor": {"SystemExit"},
        "callback": {"SystemExit"},
        "stop": {"SystemExit"},
    }
    for job_type in ("t.subtask", "t.subtask_process"):
        for way, errors in ways.items():
            job = await jobs.until_ended(await jobs.submit(job_type, json.dumps(way)))
            assert (job.state, job.attempt) == (JobState.FAILED, 1), (job_type, way)
            assert job.error is not None
            assert job.error.type in errors, (job_type, way)
    await jobs.cancel(neighbor)
    assert (await jobs.until_ended(neighbor)).attempt == 1
    await _assert_clean_stop(worker)


async def test_cancel_of_foreign_tasks_is_ignored(jobs: Platform, worker: Server) -> None:
    neighbors = await jobs.submit_many(3, "t.forever")
    for neighbor in neighbors:
        await jobs.until(neighbor, E.STARTED)
    attackers = await jobs.submit_many(2, "t.cancels_all")
    for job_id in attackers:
        job = await jobs.until_ended(job_id)
        assert (job.state, job.attempt, job.result) == (JobState.SUCCEEDED, 1, "true")
    hidden = await jobs.submit("t.cancels_from_thread")
    await jobs.until(hidden, E.OUTPUT)
    waiting = await jobs.submit("t.awaits_all")
    await jobs.until(waiting, E.STARTED)
    await jobs.cancel(waiting)
    assert (await jobs.until_ended(waiting)).state is JobState.CANCELLED
    # The worker still claims jobs, writes output and receives cancellations.
    assert (await jobs.until_ended(await jobs.submit("t.output", '{"number": 2}'))).attempt == 1
    for neighbor in (*neighbors, hidden):
        assert E.INTERRUPTED not in await jobs.history(neighbor)
        await jobs.cancel(neighbor)
        assert (await jobs.until_ended(neighbor)).state is JobState.CANCELLED
    await _assert_clean_stop(worker)
    assert worker.log.read_text().count("cancel_ignored") >= len(neighbors)

"""Isolation of handlers that exit or cancel tasks in their worker's event loop."""

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


async def test_exit_in_a_task_fails_only_its_own_job(jobs: Platform, worker: Server) -> None:
    other_job = await jobs.submit("t.forever")
    await jobs.until(other_job, E.STARTED)
    variants = {
        "wait_for": {"SystemExit"},
        "gather": {"SystemExit", "KeyboardInterrupt"},
        "create_task": {"SystemExit"},
        "group": {"KeyboardInterrupt"},
        "executor": {"SystemExit"},
        "callback": {"SystemExit"},
        "stop": {"SystemExit"},
    }
    for job_type in ("t.exit_in_task", "t.exit_in_task_process"):
        for variant, errors in variants.items():
            job = await jobs.until_ended(await jobs.submit(job_type, json.dumps(variant)))
            assert (job.state, job.attempt) == (JobState.FAILED, 1), (job_type, variant)
            assert job.error is not None
            assert job.error.type in errors, (job_type, variant)
    await jobs.cancel(other_job)
    assert (await jobs.until_ended(other_job)).attempt == 1
    await _assert_clean_stop(worker)


async def test_handler_cannot_cancel_tasks_of_other_jobs(jobs: Platform, worker: Server) -> None:
    other_jobs = await jobs.submit_many(3, "t.forever")
    for other_job in other_jobs:
        await jobs.until(other_job, E.STARTED)
    cancelling_jobs = await jobs.submit_many(2, "t.cancel_all")
    for job_id in cancelling_jobs:
        job = await jobs.until_ended(job_id)
        assert (job.state, job.attempt, job.result) == (JobState.SUCCEEDED, 1, "true")
    thread_job = await jobs.submit("t.cancel_from_thread")
    await jobs.until(thread_job, E.OUTPUT)
    waiting = await jobs.submit("t.await_all")
    await jobs.until(waiting, E.STARTED)
    await jobs.cancel(waiting)
    assert (await jobs.until_ended(waiting)).state is JobState.CANCELLED
    # The worker still claims jobs, writes output and receives cancellations.
    assert (await jobs.until_ended(await jobs.submit("t.output", '{"number": 2}'))).attempt == 1
    for other_job in (*other_jobs, thread_job):
        assert E.INTERRUPTED not in await jobs.history(other_job)
        await jobs.cancel(other_job)
        assert (await jobs.until_ended(other_job)).state is JobState.CANCELLED
    await _assert_clean_stop(worker)
    assert worker.log.read_text().count("cancel_ignored") >= len(other_jobs)

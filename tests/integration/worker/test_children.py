"""Isolation of handlers that fork or close the file descriptors of their process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from support.handlers import handlers
from support.platform import Platform, platform
from support.processes import is_running, worker_process
from support.server import Server
from support.until import until

# One loop for the tests of this module, which share a worker.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def jobs(module_settings: Settings) -> AsyncIterator[Platform]:
    async with platform(module_settings, handlers(), workers=0) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(jobs: Platform, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A worker with one process. After all tests, the worker must still stop on a signal."""
    one_process = jobs.settings.model_copy(update={"worker_processes": 1})
    async with worker_process(one_process, tmp_path_factory.mktemp("worker")) as running:
        yield running
        assert await asyncio.to_thread(running.terminate, within=30.0) == 0


async def _run_to_result(jobs: Platform, job_type: str, payload: str = "{}") -> object:
    job = await jobs.until_ended(await jobs.submit(job_type, payload))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1), (job_type, job.error)
    assert job.result is not None
    return json.loads(job.result)


async def test_child_processes_end_with_their_attempt(jobs: Platform, worker: Server) -> None:
    other_job = await jobs.submit("t.forever")
    await jobs.until(other_job, E.STARTED)
    pids = set()
    for job_type in (
        "t.leave_children",
        "t.leave_children_process",
        "t.leave_children_process",
        "t.leave_children_loop",
    ):
        result = await _run_to_result(jobs, job_type, "-2")
        assert isinstance(result, dict)
        if job_type != "t.leave_children_loop":
            assert (result["mapped"], result["exit"]) == ([1, 2], -15)
        for pid in result["left"]:
            await until(lambda pid=pid: not is_running(pid))
        if "pid" in result:
            pids.add(result["pid"])
    # A process with surviving children is not used for other jobs.
    assert len(pids) == 2
    assert await jobs.history(other_job) == [E.SUBMITTED, E.STARTED]
    await jobs.cancel(other_job)
    await jobs.until_ended(other_job)
    assert worker.running


async def test_forked_child_that_returns_is_killed(
    jobs: Platform, worker: Server, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid_file"
    suffixes = ("", "_loop", "_task", "_process")
    for job_type in (f"t.fork_and_return{suffix}" for suffix in suffixes):
        results = [
            await _run_to_result(jobs, job_type, json.dumps(str(pid_file))) for _ in range(3)
        ]
        pids = {worker.pid} if job_type != "t.fork_and_return_process" else set(results)
        assert set(results) == pids, job_type
    # No forked child continued after the `await`.
    assert pid_file.read_text().split() == [str(worker.pid)] * 6
    assert await _run_to_result(jobs, "t.process", '{"number": 1}')
    assert worker.running


@pytest.mark.parametrize("job_type", ["t.close_files", "t.close_files_loop"])
async def test_closed_channel_fails_only_its_own_job(
    jobs: Platform, worker: Server, job_type: str
) -> None:
    # The handler may close the standard file descriptors.
    first = await _run_to_result(jobs, job_type, "[0, 2]")
    assert await _run_to_result(jobs, job_type, "[0, 2]") == first
    for first_closed, last_closed in ((3, 256), (0, 256)):
        payload = f"[{first_closed}, {last_closed}]"
        job = await jobs.until_ended(await jobs.submit(job_type, payload))
        assert (job.state, job.retries_used) == (JobState.FAILED, 0)
        assert job.error is not None
        assert job.error.type == "WORKER_LOST"
        assert await _run_to_result(jobs, "t.process", '{"number": 1}')
    assert worker.running

"""Jobs that crash their process: the loss budget, and the worker's other jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_core.wake import Topic
from support.handlers import handlers
from support.jobs import set_column
from support.platform import DEADLINE_S, Platform, platform

# One loop for the tests of this module, which share a platform.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def jobs(module_settings: Settings) -> AsyncIterator[Platform]:
    """A platform with one process, in which all jobs run."""
    one_process = module_settings.model_copy(update={"worker_processes": 1})
    async with platform(one_process, handlers()) as running:
        yield running


async def submit_suspect(jobs: Platform, job_type: str, payload: str = "{}") -> JobId:
    """Submit a job that has already lost two workers."""
    later = datetime.now(UTC) + timedelta(hours=1)
    job_id = await jobs.submit(job_type, payload, schedule_time=later)
    await set_column(jobs.database, job_id, "attempt = 2, worker_losses = 2, due_time = now()")
    jobs.bus.publish(Topic.JOBS)
    return job_id


async def test_crash_suspect_does_not_end_its_worker(jobs: Platform) -> None:
    other_job = await jobs.submit("t.forever")
    await jobs.until(other_job, E.STARTED)
    job = await jobs.until_ended(await submit_suspect(jobs, "t.crash_at_once", '{"number": 3}'))
    assert (job.state, job.attempt, job.retries_used) == (JobState.FAILED, 4, 0)
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == ("WORKER_LOST", False)
    assert "exited with code 3" in job.error.message
    losses = [event for event in await jobs.events(job.id) if event.type is E.WORKER_LOST]
    assert [event.state for event in losses] == [JobState.QUEUED, JobState.FAILED]
    assert (await jobs.job(other_job)).state is JobState.RUNNING
    assert (await jobs.job(other_job)).attempt == 1
    await jobs.cancel(other_job)
    await jobs.until_ended(other_job)


async def test_crash_suspect_without_a_crash_succeeds(jobs: Platform) -> None:
    job = await jobs.until_ended(await submit_suspect(jobs, "t.echo", '{"a": 1}'))
    assert (job.state, job.result) == (JobState.SUCCEEDED, '{"a":1,"attempt":3}')


async def test_crash_suspect_is_cancelled_on_request(jobs: Platform) -> None:
    job_id = await submit_suspect(jobs, "t.forever")
    await jobs.until(job_id, E.STARTED)
    await jobs.cancel(job_id)
    assert (await jobs.until_ended(job_id)).state is JobState.CANCELLED


async def test_event_loop_of_a_process_continues_between_runs(
    jobs: Platform,
) -> None:
    first = json.loads(
        (await jobs.until_ended(await jobs.submit("t.background_task"))).result or ""
    )
    second = first
    async with asyncio.timeout(DEADLINE_S):
        # The loop may not have run between two jobs.
        while second["ticks"] == 0:
            second = json.loads(
                (await jobs.until_ended(await jobs.submit("t.background_task"))).result or ""
            )
    assert second["pid"] == first["pid"]
    assert second["run"] > first["run"]


async def test_leftover_task_cannot_report_for_the_next_run(
    jobs: Platform,
) -> None:
    for name in ("one", "two", "three"):
        job = await jobs.until_ended(await jobs.submit("t.leave_task", f'"{name}"'))
        assert (job.state, job.result) == (JobState.SUCCEEDED, '"none"')
        outputs = [event.output for event in await jobs.events(job.id) if event.output]
        assert set(outputs) <= {f'"{name}"', f'"{name}, later"'}


async def test_process_after_memory_error_is_not_reused(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.memory_error"))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    first, second = [event.output for event in await jobs.events(job.id) if event.output]
    assert first != second == job.result


async def test_huge_message_is_not_read_by_the_worker(jobs: Platform) -> None:
    job = await jobs.until_ended(
        await submit_suspect(jobs, "t.large_result", '{"number": 30000000}')
    )
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == ("LimitExceeded", False)
    assert "30000" in job.error.message


@pytest.mark.asyncio(loop_scope="function")
async def test_process_logs_like_its_worker(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    # A process inherits its standard error, so it must start after the capture begins.
    one_process = settings.model_copy(update={"worker_processes": 1, "log_format": "json"})
    async with platform(one_process, handlers()) as jobs:
        job = await jobs.until_ended(await jobs.submit("t.logs", '"a word"'))
    assert job.state is JobState.SUCCEEDED
    lines = [line for line in capfd.readouterr().err.splitlines() if "a word" in line]
    line, library = map(json.loads, lines)
    assert (line["event"], line["level"], line["service"]) == (
        "logged_by_handler",
        "info",
        "worker",
    )
    assert (library["level"], library["logger"]) == ("warning", "its.library")

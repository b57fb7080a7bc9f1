"""`complete_in`: the handler's writes and the end of its job share one transaction."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import text

from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.retry import RetryOverrides
from headrace_core.runtime.settings import Settings
from headrace_worker.service import WorkerService
from headrace_worker.writes import completion
from support.effects import CREATE_EFFECTS, effect_handlers
from support.histories import assert_legal
from support.platform import DEADLINE_S, Platform, platform
from support.settings import environment_of
from support.until import until

MODES = ["e.loop", "e.thread", "e.process", "e.process_loop"]


# One loop for the tests of this module, which share a platform.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """A database for this module, because its handlers need a table."""
    return own_database_url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def jobs(module_settings: Settings) -> AsyncIterator[Platform]:
    """A platform with one slot, so that an unreleased slot blocks the next test."""
    one_slot = module_settings.model_copy(update={"worker_slots": 1})
    async with platform(one_slot, effect_handlers()) as running:
        await execute(running, CREATE_EFFECTS)
        yield running


async def execute(jobs: Platform, statement: str) -> Any:
    async with jobs.database.statement() as connection:
        return await connection.execute(text(statement))


async def submit(jobs: Platform, mode: str, **payload: Any) -> JobId:
    return await jobs.submit(mode, json.dumps({"url": jobs.settings.postgresql_url, **payload}))


async def attempts_with_effects(jobs: Platform, job_id: JobId) -> list[int]:
    """Return the attempts of a job whose effects were committed."""
    rows = await execute(jobs, "SELECT job_id, attempt FROM effects ORDER BY attempt")
    return [row.attempt for row in rows if row.job_id == job_id]


@pytest.mark.parametrize("mode", MODES)
async def test_effect_and_end_are_committed_together(jobs: Platform, mode: str) -> None:
    job = await jobs.until_ended(await submit(jobs, mode))
    assert (job.state, job.result, job.attempt) == (JobState.SUCCEEDED, '"x"', 1)
    # Earlier reports precede the end in the history.
    assert await jobs.history(job.id) == [E.SUBMITTED, E.STARTED, E.PROGRESSED, E.SUCCEEDED]
    assert await attempts_with_effects(jobs, job.id) == [1]
    # The next job runs in the same slot.
    assert (await jobs.until_ended(await submit(jobs, mode))).state is JobState.SUCCEEDED


@pytest.mark.parametrize("mode", MODES)
async def test_return_without_commit_is_retried(jobs: Platform, mode: str) -> None:
    job = await jobs.until_ended(await submit(jobs, mode, commit=False))
    assert (job.state, job.attempt, job.retries_used) == (JobState.FAILED, 2, 1)
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == ("NotCommitted", True)
    assert "commit" in job.error.message
    assert await attempts_with_effects(jobs, job.id) == []
    assert_legal(job, await jobs.events(job.id))


@pytest.mark.parametrize("mode", MODES)
async def test_exception_after_the_commit_has_no_effect(
    jobs: Platform, mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    job = await jobs.until_ended(await submit(jobs, mode, fail=True))
    assert (job.state, job.result, job.attempt) == (JobState.SUCCEEDED, '"x"', 1)
    assert await attempts_with_effects(jobs, job.id) == [1]
    assert (await jobs.until_ended(await submit(jobs, mode))).state is JobState.SUCCEEDED
    assert "handler_failed_after_completion" in "".join(capfd.readouterr())


@pytest.mark.parametrize("mode", MODES)
async def test_exception_without_commit_ends_the_attempt(jobs: Platform, mode: str) -> None:
    job = await jobs.until_ended(await submit(jobs, mode, commit=False, fail=True))
    assert (job.state, job.attempt) == (JobState.FAILED, 2)
    assert job.error is not None
    assert job.error.type == "LookupError"
    assert await attempts_with_effects(jobs, job.id) == []


@pytest.mark.parametrize("commit", [True, False])
async def test_attempt_with_an_unknown_commit_ends(
    jobs: Platform, commit: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def deny(*_: Any, **__: Any) -> bool:
        raise asyncpg.InsufficientPrivilegeError

    monkeypatch.setattr(completion, "was_completed", deny)
    job = await jobs.until_ended(await submit(jobs, "e.loop", commit=commit))
    assert job.state is (JobState.SUCCEEDED if commit else JobState.FAILED)
    assert (await jobs.until_ended(await submit(jobs, "e.loop"))).state is JobState.SUCCEEDED
    assert "completion_unknown" in "".join(capfd.readouterr())


@pytest.mark.parametrize("mode", MODES)
async def test_report_after_complete_in_rolls_back(jobs: Platform, mode: str) -> None:
    job = await jobs.until_ended(await submit(jobs, mode, report=True))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type == "RuntimeError"
    assert "after complete_in" in job.error.message
    assert await attempts_with_effects(jobs, job.id) == []


@pytest.mark.parametrize("mode", MODES)
async def test_second_complete_in_raises_already_completed(jobs: Platform, mode: str) -> None:
    job = await jobs.until_ended(await submit(jobs, mode, twice=True))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type == "AlreadyCompleted"
    assert "complete_in was already called for attempt 2" in job.error.message
    assert await attempts_with_effects(jobs, job.id) == []


@pytest.mark.parametrize("mode", MODES)
async def test_oversized_result_rolls_back(jobs: Platform, mode: str) -> None:
    job = await jobs.until_ended(await submit(jobs, mode, size=jobs.settings.max_result_bytes))
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.error is not None
    assert job.error.type == "LimitExceeded"
    assert "HEADRACE_MAX_RESULT_BYTES" in job.error.message
    assert await attempts_with_effects(jobs, job.id) == []


@pytest.mark.parametrize("mode", MODES)
async def test_timeout_after_commit_releases_the_slot(jobs: Platform, mode: str) -> None:
    # Start the process first. Otherwise, the timeout would include its start.
    assert (await jobs.until_ended(await submit(jobs, mode))).state is JobState.SUCCEEDED
    job_id = await jobs.submit(
        mode,
        json.dumps({"url": jobs.settings.postgresql_url, "hang": True}),
        timeout=timedelta(seconds=5),
        # On a busy machine an attempt may time out before its commit.
        retry=RetryOverrides(max_attempts=4),
    )
    job = await jobs.until_ended(job_id)
    assert (job.state, job.result) == (JobState.SUCCEEDED, '"x"')
    # The timeout of the committed attempt frees the only slot.
    assert (await jobs.until_ended(await submit(jobs, mode))).state is JobState.SUCCEEDED
    assert await jobs.job(job_id) == job
    assert await attempts_with_effects(jobs, job_id) == [job.attempt]


async def test_abandoned_transactions_do_not_block_the_worker(
    settings: Settings,
) -> None:
    short_timeouts = settings.model_copy(
        update={
            "worker_cancel_grace": 0.1,
            "worker_slots": 4,
            "database_pool_size": 2,
            # The lease is long, so the worker keeps it on a busy machine.
            "worker_lease": 6.0,
            "worker_beat": 2.0,
        }
    )
    async with (
        platform(short_timeouts, effect_handlers(), workers=0) as jobs,
        _running_service(short_timeouts) as worker,
    ):
        await execute(jobs, CREATE_EFFECTS)
        # One slot stays free. There are more transactions than connections of the worker.
        hanging = await jobs.submit_many(
            3,
            "e.hold_transaction",
            json.dumps({"url": jobs.settings.postgresql_url}),
            timeout=timedelta(seconds=2),
            # Another attempt would also hang and block the worker's stop.
            retry=RetryOverrides(max_attempts=1),
        )
        await until(lambda: worker.counts.left_behind == len(hanging), within=DEADLINE_S)
        [before] = await execute(jobs, "SELECT clock_timestamp() AS time")
        other = await submit(jobs, "e.loop")
        assert (await jobs.until_ended(other)).state is JobState.SUCCEEDED
        # Wait longer than the lease.
        await _until_row(
            jobs,
            f"SELECT 1 FROM workers WHERE heartbeat_time > '{before.time}'::timestamptz "
            f"+ interval '{short_timeouts.worker_lease} s'",
        )
        other = await submit(jobs, "e.loop", commit=False)
        assert (await jobs.until_ended(other)).state is JobState.FAILED
        assert (worker.counts.lease_losses, worker.running) == (0, len(hanging))
        await execute(
            jobs,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query = 'SELECT pg_sleep(600)'",
        )
        # After the transactions have ended, the worker writes the ends of their attempts.
        for job_id in hanging:
            event = await jobs.until(job_id, E.FAILED)
            assert event.error is not None
            assert event.error.type == "TIMEOUT"


@asynccontextmanager
async def _running_service(settings: Settings) -> AsyncIterator[WorkerService]:
    worker = WorkerService(settings, effect_handlers())
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def test_each_succeeded_job_has_one_effect_despite_kills(
    settings: Settings,
) -> None:
    count, kills = 60, 2
    rng = random.Random(17)
    many_slots = settings.model_copy(
        update={
            "worker_slots": 4,
            "handlers": ("support.effects",),
            "worker_lease": 6.0,
            "worker_beat": 1.0,
        }
    )
    async with (
        platform(many_slots, effect_handlers(), workers=0) as jobs,
        AsyncExitStack() as stack,
    ):
        await execute(jobs, CREATE_EFFECTS)
        workers = [
            await stack.enter_async_context(_worker_process(many_slots)) for _ in range(kills + 1)
        ]
        await _until_row(jobs, "SELECT 1 FROM workers HAVING count(*) > 2")
        ids = await jobs.submit_many(
            count, "e.slow", json.dumps({"url": jobs.settings.postgresql_url})
        )
        for worker in workers[:kills]:
            [before] = await execute(jobs, "SELECT max(position) AS p FROM job_events")
            await _until_row(
                jobs, f"SELECT 1 FROM job_events WHERE type = 'started' AND position > {before.p}"
            )
            await asyncio.sleep(rng.uniform(0, 0.3))
            worker.kill()
        ended = [await jobs.until_ended(job_id) for job_id in ids]
        rows = await execute(jobs, "SELECT job_id, attempt FROM effects")
        succeeded = [job for job in ended if job.state is JobState.SUCCEEDED]
        assert sorted((row.job_id, row.attempt) for row in rows) == sorted(
            (job.id, job.attempt) for job in succeeded
        )
        # The kills interrupted some attempts; most jobs succeeded later.
        assert max(job.attempt for job in ended) > 1
        assert len(succeeded) > count / 2
        for job in ended:
            assert_legal(job, await jobs.events(job.id))


@asynccontextmanager
async def _worker_process(settings: Settings) -> AsyncIterator[asyncio.subprocess.Process]:
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace_worker"),
        env=environment_of(settings, PYTHONPATH=":".join(filter(None, sys.path))),
    )
    try:
        yield worker
    finally:
        with suppress(ProcessLookupError):
            worker.kill()
        await worker.wait()


async def _until_row(jobs: Platform, query: str) -> None:
    """Wait until a query returns a row."""
    async with asyncio.timeout(3 * DEADLINE_S):
        while not await execute(jobs, query):
            await jobs.wait_for_wake_up()


@pytest.mark.parametrize("mode", ["e.time_left", "e.thread_time_left", "e.process_time_left"])
async def test_handler_can_read_its_time_left(jobs: Platform, mode: str) -> None:
    payload = json.dumps({"url": ""})
    by_timeout = await jobs.submit(mode, payload)
    soon = datetime.now(UTC) + timedelta(seconds=20)
    by_deadline = await jobs.submit(mode, payload, deadline=soon)
    for job_id, most in ((by_timeout, 30), (by_deadline, 20)):
        job = await jobs.until_ended(job_id)
        before, after = json.loads(job.result or "")
        assert most - 15 < after < before <= most
        assert 0.05 <= before - after < 5

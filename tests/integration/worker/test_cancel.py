"""Cancellations and timeouts: the worker ends the attempt and releases its slot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from pydantic import SecretStr

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.retry import RetryOverrides
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.wake import Topic
from headrace_worker.service import WorkerService
from headrace_worker.timing import Timing
from support.handlers import handlers
from support.platform import DEADLINE_S, Platform, platform
from support.until import until
from support.valkey import OwnValkey, own_valkey

# Types of jobs whose handlers ignore cancellation.
CANCEL_IGNORING_TYPES = ["t.ignore_cancel_once", "t.ignore_cancel_thread", "t.spin"]


@pytest.fixture
def one_slot_settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"worker_slots": 1, "shutdown_grace": 0.1})


@pytest.fixture
async def jobs(one_slot_settings: Settings) -> AsyncIterator[Platform]:
    async with platform(one_slot_settings, handlers(), workers=0) as running:
        yield running


@pytest.fixture
async def worker(one_slot_settings: Settings, jobs: Platform) -> AsyncIterator[WorkerService]:
    # A wait for a process that ignores termination would exceed the test deadline.
    timing = Timing(process_exit=2 * DEADLINE_S, process_reap=2 * DEADLINE_S)
    worker = WorkerService(one_slot_settings, handlers(), timing=timing)
    await worker.start()
    yield worker
    await worker.stop()


@pytest.mark.parametrize("job_type", CANCEL_IGNORING_TYPES)
@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_handler_that_ignores_cancellation_releases_slot(
    jobs: Platform, worker: WorkerService, job_type: str, how: str
) -> None:
    if job_type == "t.spin":
        # Start the process first. Otherwise, the timeout would include its start.
        await jobs.until_ended(await jobs.submit("t.process", '{"number": 1}'))
    timeout = timedelta(seconds=60 if how == "cancel" else 1)
    job_id = await jobs.submit(job_type, timeout=timeout, retry=RetryOverrides(max_attempts=1))
    is_busy = how == "cancel" and job_type == "t.spin"
    await jobs.until(job_id, E.OUTPUT if is_busy else E.STARTED)
    # The next job requires the only slot.
    waiting = await jobs.submit("t.echo")
    if how == "cancel":
        await jobs.cancel(job_id)
    stopped = await jobs.until_ended(job_id)
    after = await jobs.until_ended(waiting)
    assert stopped.state is (JobState.CANCELLED if how == "cancel" else JobState.FAILED)
    requested = stopped.cancel_request_time
    if requested is None:
        assert stopped.start_time is not None
        requested = stopped.start_time + timeout
    assert after.start_time is not None
    free_after = (after.start_time - requested).total_seconds()
    assert jobs.settings.worker_cancel_grace - 0.1 <= free_after
    assert worker.counts.left_behind == (job_type != "t.spin")


async def test_cancel_does_not_affect_the_next_attempt(
    settings: Settings,
) -> None:
    adjusted = settings.model_copy(update={"shutdown_grace": 0.1})
    async with platform(adjusted, handlers()) as jobs:
        job_id = await jobs.submit("t.ignore_cancel_once")
        first = await jobs.until(job_id, E.STARTED)
        await jobs.cancel(job_id)
        assert (await jobs.until_ended(job_id)).state is JobState.CANCELLED
        # The abandoned handler is still running.
        async with jobs.database.transaction() as connection:
            await requeue_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)
        jobs.bus.publish(Topic.JOBS)
        await until(lambda: _has_started(jobs, job_id, times=2))
        # A late wake-up for the first cancellation causes another query.
        for _ in range(3):
            jobs.bus.publish(Topic.CANCELS)
            await jobs.until_ended(await jobs.submit("t.echo"))
        job = await jobs.job(job_id)
        assert (job.state, job.attempt, job.cancel_request_time) == (JobState.RUNNING, 2, None)
        second = await jobs.until(job_id, E.STARTED)
        assert second.worker_id == first.worker_id
        await jobs.cancel(job_id)
        await jobs.until_ended(job_id)


@pytest.fixture
def valkey() -> Iterator[OwnValkey]:
    with own_valkey() as server:
        yield server


async def test_heartbeat_detects_a_cancel_without_wake_up(
    settings: Settings, valkey: OwnValkey
) -> None:
    own_redis = settings.model_copy(
        update={
            "redis_url": SecretStr(valkey.url),
            "redis_timeout": 0.5,
            "shutdown_grace": 0.1,
            # A wait for the lapse of the lease would exceed the test deadline.
            "worker_lease": 3.0 * DEADLINE_S,
        }
    )
    async with platform(own_redis, handlers()) as jobs:
        job_id = await jobs.submit("t.forever")
        await jobs.until(job_id, E.STARTED)
        valkey.kill()
        async with jobs.database.transaction() as connection:
            await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)
        # The test sends no wake-up.
        assert (await jobs.until_ended(job_id)).state is JobState.CANCELLED


async def _has_started(jobs: Platform, job_id: JobId, *, times: int) -> bool:
    return (await jobs.history(job_id)).count(E.STARTED) == times

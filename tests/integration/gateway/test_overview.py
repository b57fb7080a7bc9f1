"""WatchOverview: counts, rates, durations and errors, after each commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from headrace.v1 import monitor_service_pb2 as ms
from headrace.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RETRYING,
    JOB_STATE_RUNNING,
    JOB_STATE_SCHEDULED,
    JOB_STATE_SUCCEEDED,
    JobSpec,
)
from headrace.v1.job_service_pb2 import (
    WATCH_MARK_IDLE,
    CancelJobRequest,
    GetStatsRequest,
    RetryJobRequest,
    SubmitJobRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.monitor_service_pb2_grpc import MonitorServiceStub
from headrace_core.domain.ids import parse_id
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support import workers
from support.gateway import TIMEOUT, FakeWorker, rpc_error


@pytest.fixture
def monitor(channel: grpc.aio.Channel) -> MonitorServiceStub:
    return MonitorServiceStub(channel)


@pytest.fixture
async def runner(database: Database) -> FakeWorker:
    runner = FakeWorker(database)
    runner.id = await workers.register(database, "test", queues=["mail"], slots=4)
    return runner


class Stream:
    """A stream of overviews."""

    def __init__(self, call: grpc.aio.UnaryStreamCall) -> None:
        self._call = call

    async def next(self) -> ms.Overview:
        """Return the next overview; skip marks."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                response = await self._call.read()
                assert response is not grpc.aio.EOF
                if response.HasField("overview"):
                    return response.overview

    async def until(self, condition: Callable[[ms.Overview], bool]) -> ms.Overview:
        """Return the next overview that meets a condition."""
        while not condition(overview := await self.next()):
            pass
        return overview


@asynccontextmanager
async def watching(monitor: MonitorServiceStub, **fields: object) -> AsyncIterator[Stream]:
    call = monitor.WatchOverview(ms.WatchOverviewRequest(**fields))
    try:
        yield Stream(call)
    finally:
        call.cancel()


def states(overview: ms.Overview) -> dict[int, int]:
    return {count.state: count.jobs for count in overview.states}


async def submit(jobs: JobServiceStub, queue: str = "mail", **fields: object) -> str:
    request = SubmitJobRequest(job=JobSpec(type="test", queue=queue, **fields))
    return (await jobs.SubmitJob(request, timeout=TIMEOUT)).job.id


async def test_first_overview_counts_all_jobs_and_workers(
    monitor: MonitorServiceStub, jobs: JobServiceStub, runner: FakeWorker
) -> None:
    first = await submit(jobs)
    second = await submit(jobs)
    await submit(jobs, queue="other")
    await runner.start_job(first)
    async with watching(monitor) as stream:
        overview = await stream.next()
    assert states(overview) == {JOB_STATE_QUEUED: 2, JOB_STATE_RUNNING: 1}
    assert [queue.queue for queue in overview.queues] == ["mail", "other"]
    mail = overview.queues[0]
    assert (mail.workers, mail.slots) == (1, 4)
    assert (overview.workers, overview.draining_workers) == (1, 0)
    assert (overview.slots, overview.busy_slots) == (4, 1)
    assert overview.oldest_job.job_id == second
    assert overview.oldest_job.queue_time == mail.oldest_queue_time
    # The events before the stream are included.
    short, long = overview.rates
    assert 0 < short.window.ToSeconds() <= 10
    assert 0 < long.window.ToSeconds() <= 60
    assert (short.submitted > 0, short.started > 0, short.succeeded) == (True, True, 0)
    assert overview.wait.count == 1
    assert overview.run.count == 0


async def test_each_transition_changes_the_counts(
    monitor: MonitorServiceStub, jobs: JobServiceStub, runner: FakeWorker, database: Database
) -> None:
    async with watching(monitor) as stream:
        assert states(await stream.next()) == {}

        async def check(**expected: int) -> ms.Overview:
            wanted = {_STATES[name]: count for name, count in expected.items()}
            return await stream.until(lambda overview: states(overview) == wanted)

        succeeding = await submit(jobs)
        overview = await check(queued=1)
        assert overview.oldest_job.job_id == succeeding
        await runner.start_job(succeeding)
        overview = await check(running=1)
        assert not overview.HasField("oldest_job")
        await runner.report(succeeding, output="{}")
        await runner.succeed(succeeding)
        await check(succeeded=1)

        failing = await submit(jobs)
        await runner.start_job(failing)
        await runner.fail(failing)
        await check(succeeded=1, failed=1)
        await jobs.RetryJob(RetryJobRequest(job_id=failing), timeout=TIMEOUT)
        await check(succeeded=1, queued=1)
        await jobs.CancelJob(CancelJobRequest(job_id=failing), timeout=TIMEOUT)
        await check(succeeded=1, cancelled=1)

        scheduled = JobSpec(type="test", queue="mail")
        scheduled.schedule_time.FromSeconds(4_000_000_000)
        later = await jobs.SubmitJob(SubmitJobRequest(job=scheduled), timeout=TIMEOUT)
        await check(succeeded=1, cancelled=1, scheduled=1)
        await jobs.CancelJob(CancelJobRequest(job_id=later.job.id), timeout=TIMEOUT)
        await check(succeeded=1, cancelled=2)

        retried = await submit(jobs)
        await runner.start_job(retried)
        end = workers.attempt_end(parse_id(retried), 1, EventType.RETRY_SCHEDULED)
        assert await workers.write_ends(database, runner.id, end)
        await check(succeeded=1, cancelled=2, retrying=1)
        await jobs.CancelJob(CancelJobRequest(job_id=retried), timeout=TIMEOUT)
        overview = await check(succeeded=1, cancelled=3)
    assert (overview.wait.count, overview.run.count) == (3, 3)
    assert overview.run.HasField("p50")
    assert overview.run.HasField("p95")
    long = overview.rates[1]
    assert long.cancelled == pytest.approx(3 * long.succeeded)
    assert long.retried == pytest.approx(long.succeeded)
    [failure] = [one for one in overview.failing_types if one.last_job_id == retried]
    assert (failure.type, failure.error_type, failure.attempts) == ("test", "ValueError", 2)


async def test_counts_after_many_concurrent_changes_are_exact(
    monitor: MonitorServiceStub, jobs: JobServiceStub, runner: FakeWorker
) -> None:
    async def run(number: int) -> None:
        job_id = await submit(jobs, queue=f"q{number % 3}")
        if number % 4:
            await runner.start_job(job_id)
        if number % 4 == 2:
            await runner.succeed(job_id)
        elif number % 4 == 3:
            await jobs.CancelJob(CancelJobRequest(job_id=job_id), timeout=TIMEOUT)

    first = asyncio.gather(*(run(number) for number in range(40)))
    async with watching(monitor) as stream:
        await stream.next()
        await asyncio.gather(first, *(run(number) for number in range(40, 120)))
        expected = await jobs.GetStats(GetStatsRequest(), timeout=TIMEOUT)
        wanted = {count.state: count.jobs for count in expected.states}
        overview = await stream.until(lambda overview: states(overview) == wanted)
    by_queue = {
        queue.queue: {count.state: count.jobs for count in queue.states}
        for queue in overview.queues
        if queue.states
    }
    assert by_queue == {
        queue.queue: {count.state: count.jobs for count in queue.states}
        for queue in expected.queues
    }


async def test_oldest_job_follows_when_jobs_start(
    monitor: MonitorServiceStub, jobs: JobServiceStub, runner: FakeWorker
) -> None:
    job_ids = [await submit(jobs) for _ in range(4)]
    async with watching(monitor) as stream:
        for job_id in job_ids:
            await stream.until(lambda o, job_id=job_id: o.oldest_job.job_id == job_id)
            await runner.start_job(job_id)
        await stream.until(lambda overview: not overview.HasField("oldest_job"))


async def test_new_worker_changes_the_slots(
    monitor: MonitorServiceStub, gateway: Gateway, database: Database
) -> None:
    async with watching(monitor) as stream:
        assert (await stream.next()).slots == 0
        worker_id = await workers.register(database, slots=7)
        assert (await stream.until(lambda overview: overview.slots > 0)).workers == 1
        await workers.drain(database, worker_id)
        overview = await stream.until(lambda overview: overview.slots == 0)
    assert (overview.workers, overview.draining_workers) == (0, 1)


async def test_quiet_stream_sends_idle_marks(monitor: MonitorServiceStub) -> None:
    call = monitor.WatchOverview(ms.WatchOverviewRequest(idle_interval=Duration(seconds=1)))
    async with asyncio.timeout(TIMEOUT):
        assert (await call.read()).HasField("overview")
        response = await call.read()
    call.cancel()
    assert (response.HasField("overview"), response.mark) == (False, WATCH_MARK_IDLE)


async def test_streams_share_one_computation(
    monitor: MonitorServiceStub, gateway: Gateway, jobs: JobServiceStub
) -> None:
    async with watching(monitor) as first, watching(monitor) as second:
        for stream in (first, second):
            await stream.next()
        assert gateway.gauges.overview_computations == 1
        assert gateway.gauges.overview_streams == 2
        await submit(jobs)
        for stream in (first, second):
            await stream.until(lambda overview: states(overview) == {JOB_STATE_QUEUED: 1})


async def test_computation_ends_after_its_last_stream(
    monitor: MonitorServiceStub, gateway: Gateway
) -> None:
    async with watching(monitor) as stream:
        await stream.next()
    async with asyncio.timeout(TIMEOUT):
        while gateway.gauges.overview_computations:
            await asyncio.sleep(0.05)
    assert gateway.gauges.overview_streams == 0


async def test_shutdown_ends_the_stream(monitor: MonitorServiceStub, gateway: Gateway) -> None:
    call = monitor.WatchOverview(ms.WatchOverviewRequest(interval=Duration(seconds=60)))
    assert (await call.read()).HasField("overview")
    await gateway.stop()
    error = await rpc_error(call.read())
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("interval", Duration(nanos=99_000_000)),
        ("interval", Duration(seconds=61)),
        ("idle_interval", Duration(seconds=0)),
    ],
)
async def test_interval_out_of_range_is_rejected(
    field: str, value: Duration, monitor: MonitorServiceStub
) -> None:
    call = monitor.WatchOverview(ms.WatchOverviewRequest(**{field: value}))
    error = await rpc_error(call.read())
    assert list(error.violations) == [field]


_STATES = {
    "queued": JOB_STATE_QUEUED,
    "scheduled": JOB_STATE_SCHEDULED,
    "running": JOB_STATE_RUNNING,
    "retrying": JOB_STATE_RETRYING,
    "succeeded": JOB_STATE_SUCCEEDED,
    "failed": JOB_STATE_FAILED,
    "cancelled": JOB_STATE_CANCELLED,
}

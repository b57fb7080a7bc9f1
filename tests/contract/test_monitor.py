"""Workers, queues, overviews and histories."""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from headrace import Client, History, JobState
from headrace.v1 import monitor_service_pb2 as pb
from headrace.v1.monitor_service_pb2_grpc import MonitorServiceStub
from support.contract import IDLE, SCRIPTED, Driver
from support.gateway import TIMEOUT, rpc_error
from support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def monitor(channel: grpc.aio.Channel) -> MonitorServiceStub:
    return MonitorServiceStub(channel)


async def end_with_error(client: Client, driver: Driver, queue: str) -> str:
    """Run one job to its end, with one failed attempt, and return its id."""
    job = await client.submit(SCRIPTED, queue=queue)
    await driver.start(job.id)
    await driver.fail_attempt(job.id, "first")
    await driver.fail(job.id, "second")
    return job.id


async def test_worker_is_listed_with_its_running_job(client: Client, driver: Driver, name: str):
    job = await client.submit(SCRIPTED, queue=name)
    await driver.start(job.id)
    [worker] = [worker async for worker in client.workers()]
    assert SCRIPTED in worker.types
    assert (worker.tenants, worker.queues) == (("default",), ())
    assert (worker.live, worker.draining) == (True, False)
    assert worker.slots >= worker.busy_slots >= 1
    [running] = [running for running in worker.running_jobs if running.job_id == job.id]
    assert (running.type, running.queue, running.attempt) == (SCRIPTED, name, 1)
    assert running.start_time == (await client.get(job.id)).start_time
    assert worker.id == (await client.get(job.id)).worker_id
    assert worker.start_time is not None
    assert worker.heartbeat_time is not None
    assert worker.lease_expire_time is not None
    assert worker.start_time <= worker.heartbeat_time < worker.lease_expire_time
    await driver.succeed(job.id)


async def test_queue_counts_jobs_and_serving_workers(client: Client, driver: Driver, name: str):
    unserved = await client.submit(IDLE, queue=f"{name}.idle")
    job = await client.submit(SCRIPTED, queue=name)
    await driver.start(job.id)
    listed = [queue async for queue in client.queues()]
    assert [queue.queue for queue in listed] == sorted(queue.queue for queue in listed)
    queues = {queue.queue: queue for queue in listed}
    busy, idle = queues[name], queues[f"{name}.idle"]
    assert busy.states == {JobState.RUNNING: 1}
    assert busy.oldest_queue_time is None
    assert busy.workers == 1
    assert busy.slots > 0
    assert idle.states == {JobState.QUEUED: 1}
    assert idle.oldest_queue_time == (await client.get(unserved.id)).queue_time
    assert (idle.workers, idle.slots) == (0, 0)
    await driver.succeed(job.id)


async def test_pages_of_queues_are_complete(client: Client, monitor: MonitorServiceStub, name: str):
    expected = [f"{name}.{number}" for number in range(3)]
    for queue in expected:
        await client.submit(IDLE, queue=queue)
    request = pb.ListQueuesRequest(page_size=2)
    queues: list[str] = []
    while not queues or request.page_token:
        response = await monitor.ListQueues(request, timeout=TIMEOUT)
        assert len(response.queues) <= 2
        assert response.HasField("measure_time")
        queues += [queue.queue for queue in response.queues]
        request.page_token = response.next_page_token
    assert [queue for queue in queues if queue.startswith(name)] == expected


async def test_overview_follows_a_job(client: Client, driver: Driver, name: str):
    async with aclosing(client.watch_overview(interval=0.1)) as overviews:

        async def overview_with(states: dict[JobState, int]) -> None:
            async for overview in overviews:
                found = {queue.queue: queue.states for queue in overview.queues}
                if found.get(name) == states:
                    break
            assert overview.workers == 1
            assert overview.slots >= overview.busy_slots >= states.get(JobState.RUNNING, 0)
            assert [rates.window for rates in overview.rates] == sorted(
                rates.window for rates in overview.rates if rates.window
            )

        await anext(overviews)
        job = await client.submit(SCRIPTED, queue=name)
        await driver.start(job.id)
        await overview_with({JobState.RUNNING: 1})
        await driver.succeed(job.id)
        await overview_with({JobState.SUCCEEDED: 1})


async def test_overview_shows_rates_durations_and_errors(client: Client, driver: Driver, name: str):
    waiting = await client.submit(IDLE, queue=name)
    failed = await end_with_error(client, driver, name)
    async with aclosing(client.watch_overview()) as overviews:
        async for overview in overviews:
            errors = [error for error in overview.failing_types if error.last_job_id == failed]
            if errors and overview.rates[1].failed:
                break
    assert overview.rates[1].started > overview.rates[1].retried > 0
    assert overview.rates[1].submitted > 0
    assert (errors[0].type, errors[0].error_type) == (SCRIPTED, "ValueError")
    assert errors[0].attempts >= 2
    for latency in (overview.wait, overview.run):
        assert latency.count >= 2
        assert latency.p50 is not None
        assert latency.p95 is not None
        assert timedelta() <= latency.p50 <= latency.p95
    assert overview.oldest_job is not None
    assert overview.oldest_job.queue_time is not None
    queue_time = (await client.get(waiting.id)).queue_time
    assert queue_time is not None
    assert overview.oldest_job.queue_time <= queue_time


async def test_quiet_overview_sends_idle_marks(monitor: MonitorServiceStub):
    request = pb.WatchOverviewRequest(idle_interval=Duration(seconds=1))
    async for response in monitor.WatchOverview(request, timeout=2 * TIMEOUT):
        if response.mark:
            assert not response.HasField("overview")
            return
    pytest.fail("the stream ended")


async def test_history_counts_the_events_of_a_queue(client: Client, driver: Driver, name: str):
    await end_with_error(client, driver, name)
    cancelled = await client.submit(IDLE, queue=name)
    await client.cancel(cancelled.id)
    history: History | None = None

    async def complete() -> bool:
        nonlocal history
        history = await client.history(timedelta(minutes=10), step=120, queue=name)
        return sum(point.cancelled for point in history.points) == 1

    await until(complete)
    assert history is not None
    assert (len(history.points), history.step) == (5, timedelta(minutes=2))
    starts = [point.start_time for point in history.points]
    assert all(start and start.timestamp() % 120 == 0 for start in starts)
    totals = {
        count: sum(getattr(point, count) for point in history.points)
        for count in ("submitted", "started", "retried", "succeeded", "failed", "cancelled")
    }
    assert totals == {
        "submitted": 2,
        "started": 2,
        "retried": 1,
        "succeeded": 0,
        "failed": 1,
        "cancelled": 1,
    }
    assert sum(point.wait.count for point in history.points) == 2
    assert sum(point.run.count for point in history.points) == 2
    assert history.points[0].run.p50 is None
    other = await client.history(queue=name, type=IDLE)
    assert sum(point.submitted for point in other.points) == 1


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"range": Duration(seconds=59)}, "range"),
        ({"step": Duration(seconds=90)}, "step"),
        ({"range": Duration(seconds=86_400 * 30), "step": Duration(seconds=60)}, "step"),
        ({"queue": "no name"}, "queue"),
    ],
)
async def test_invalid_history_is_rejected(
    monitor: MonitorServiceStub, request_fields: dict[str, Duration], field: str
):
    error = await rpc_error(monitor.GetHistory(pb.GetHistoryRequest(**request_fields)))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert list(error.violations) == [field]


async def test_invalid_interval_is_rejected(monitor: MonitorServiceStub):
    request = pb.WatchOverviewRequest(interval=Duration(nanos=50_000_000))
    error = await rpc_error(monitor.WatchOverview(request).read())
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert list(error.violations) == ["interval"]

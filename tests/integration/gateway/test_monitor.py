"""ListWorkers and ListQueues."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest

from headrace.v1 import monitor_service_pb2 as ms
from headrace.v1.job_pb2 import JOB_STATE_CANCELLED, JOB_STATE_QUEUED, JOB_STATE_RUNNING, JobSpec
from headrace.v1.job_service_pb2 import CancelJobRequest, SubmitJobRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.monitor_service_pb2_grpc import MonitorServiceStub
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import parse_id
from headrace_core.store.sql.database import Database
from support import workers
from support.gateway import TIMEOUT, rpc_error


@pytest.fixture
def monitor(channel: grpc.aio.Channel) -> MonitorServiceStub:
    return MonitorServiceStub(channel)


async def submit(jobs: JobServiceStub, job_type: str = "test", queue: str = "default") -> str:
    request = SubmitJobRequest(job=JobSpec(type=job_type, queue=queue))
    return (await jobs.SubmitJob(request, timeout=TIMEOUT)).job.id


async def list_queues(monitor: MonitorServiceStub) -> dict[str, ms.QueueStatus]:
    response = await monitor.ListQueues(ms.ListQueuesRequest(), timeout=TIMEOUT)
    assert response.HasField("measure_time")
    return {queue.queue: queue for queue in response.queues}


def counts(queue: ms.QueueStatus) -> dict[int, int]:
    return {count.state: count.jobs for count in queue.states}


async def test_worker_is_listed_with_its_running_jobs(
    monitor: MonitorServiceStub, jobs: JobServiceStub, database: Database
) -> None:
    job_ids = [await submit(jobs, queue="mail") for _ in range(3)]
    worker_id = await workers.register(
        database, "zip", "test", pool="small", queues=["mail"], slots=4
    )
    deliveries = [AttemptKey(parse_id(job_id), 1) for job_id in job_ids[:2]]
    await workers.claim(database, worker_id, deliveries)
    [worker] = (await monitor.ListWorkers(ms.ListWorkersRequest(), timeout=TIMEOUT)).workers
    assert worker.id == str(worker_id)
    assert (worker.name, worker.pool, worker.slots) == ("fake", "small", 4)
    assert list(worker.tenants) == ["default"]
    assert list(worker.queues) == ["mail"]
    assert list(worker.types) == ["test", "zip"]
    assert worker.busy_slots == 2
    assert {job.job_id for job in worker.running_jobs} == set(job_ids[:2])
    running = worker.running_jobs[0]
    assert (running.type, running.queue, running.attempt) == ("test", "mail", 1)
    assert running.HasField("start_time")
    assert (worker.live, worker.draining) == (True, False)
    times = worker.start_time, worker.heartbeat_time, worker.lease_expire_time
    assert sorted(times, key=lambda time: time.ToNanoseconds()) == list(times)


async def test_draining_and_lapsed_workers_are_marked(
    monitor: MonitorServiceStub, database: Database
) -> None:
    draining = await workers.register(database)
    await workers.drain(database, draining)
    lapsed = await workers.register(database)
    await workers.lapse(database, lapsed)
    listed = (await monitor.ListWorkers(ms.ListWorkersRequest(), timeout=TIMEOUT)).workers
    assert [(worker.id, worker.live, worker.draining) for worker in listed] == [
        (str(draining), True, True),
        (str(lapsed), False, False),
    ]


async def test_workers_are_listed_in_pages(monitor: MonitorServiceStub, database: Database) -> None:
    ids = [str(await workers.register(database)) for _ in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        request = ms.ListWorkersRequest(page_size=2, page_token=token)
        page = await monitor.ListWorkers(request, timeout=TIMEOUT)
        seen += [worker.id for worker in page.workers]
        token = page.next_page_token
        if not token:
            break
    assert seen == ids


async def test_running_jobs_beyond_the_limit_are_only_counted(
    monitor: MonitorServiceStub, jobs: JobServiceStub, database: Database
) -> None:
    job_ids = await asyncio.gather(*(submit(jobs) for _ in range(103)))
    worker_id = await workers.register(database, slots=200)
    await workers.claim(database, worker_id, [AttemptKey(parse_id(one), 1) for one in job_ids])
    [worker] = (await monitor.ListWorkers(ms.ListWorkersRequest(), timeout=TIMEOUT)).workers
    assert (worker.busy_slots, len(worker.running_jobs)) == (103, 100)


async def test_queue_has_its_counts_and_its_workers(
    monitor: MonitorServiceStub, jobs: JobServiceStub, database: Database
) -> None:
    first = await submit(jobs, queue="mail")
    await submit(jobs, queue="mail")
    await submit(jobs, queue="other")
    cancelled = await submit(jobs, queue="done")
    await jobs.CancelJob(CancelJobRequest(job_id=cancelled), timeout=TIMEOUT)
    worker_id = await workers.register(database, pool="a", queues=["mail"], slots=4)
    await workers.register(database, pool="a", queues=["mail"], slots=3)
    await workers.register(database, "never", pool="b", queues=["idle", "other"], slots=2)
    await workers.claim(database, worker_id, [AttemptKey(parse_id(first), 1)])
    queues = await list_queues(monitor)
    assert list(queues) == ["done", "idle", "mail", "other"]
    assert counts(queues["mail"]) == {JOB_STATE_QUEUED: 1, JOB_STATE_RUNNING: 1}
    assert queues["mail"].HasField("oldest_queue_time")
    assert (queues["mail"].workers, queues["mail"].slots) == (2, 7)
    # No worker of this queue runs the type of its job.
    assert (queues["other"].workers, queues["other"].slots) == (0, 0)
    assert counts(queues["done"]) == {JOB_STATE_CANCELLED: 1}
    assert not queues["done"].HasField("oldest_queue_time")
    assert (queues["idle"].workers, queues["idle"].slots) == (1, 2)


async def test_queues_are_listed_in_pages(monitor: MonitorServiceStub, jobs: JobServiceStub):
    for queue in ("c", "a", "b"):
        await submit(jobs, queue=queue)
    seen: list[str] = []
    token = ""
    while True:
        request = ms.ListQueuesRequest(page_size=1, page_token=token)
        page = await monitor.ListQueues(request, timeout=TIMEOUT)
        seen += [queue.queue for queue in page.queues]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["a", "b", "c"]


@pytest.mark.parametrize("rpc", ["ListWorkers", "ListQueues"])
async def test_invalid_page_is_rejected(rpc: str, monitor: MonitorServiceStub) -> None:
    method, request = getattr(monitor, rpc), getattr(ms, f"{rpc}Request")
    error = await rpc_error(method(request(page_size=-1)))
    assert list(error.violations) == ["page_size"]
    error = await rpc_error(method(request(page_token="x")))
    assert error.reason == "PAGE_TOKEN_INVALID"

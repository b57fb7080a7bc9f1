"""WatchJob and WatchJobs over gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from headrace.v1.data_pb2 import DATA_ENCODING_JSON, Data
from headrace.v1.event_pb2 import (
    JOB_EVENT_TYPE_FAILED,
    JOB_EVENT_TYPE_OUTPUT,
    JOB_EVENT_TYPE_STARTED,
    JOB_EVENT_TYPE_SUBMITTED,
)
from headrace.v1.job_pb2 import JOB_STATE_QUEUED, JobSpec
from headrace.v1.job_service_pb2 import (
    WATCH_MARK_CAUGHT_UP,
    WATCH_MARK_UNSPECIFIED,
    JobFilter,
    SubmitJobRequest,
    WatchJobRequest,
    WatchJobsRequest,
    WatchJobsResponse,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_gateway.service import Gateway
from support.gateway import TIMEOUT, FakeWorker, read_error, rpc_error
from support.until import until

NUMBERS = Data(json=b'{"data": [1, 2, 3]}')


@pytest.fixture
async def job_id(worker: FakeWorker, jobs: JobServiceStub) -> str:
    """A queued job."""
    spec = JobSpec(type="square_sum", payload=NUMBERS)
    return (await jobs.SubmitJob(SubmitJobRequest(job=spec))).job.id


async def read_response(call: Any) -> Any:
    async with asyncio.timeout(TIMEOUT):
        return await call.read()


async def until_no_streams(gateway: Gateway) -> None:
    """Wait until the gateway has no stream."""

    async def has_no_stream() -> bool:
        return gateway.gauges.job_streams == gateway.gauges.filter_streams == 0

    await until(has_no_stream)


async def test_watch_sends_every_event_of_a_job_to_its_end(
    jobs: JobServiceStub, worker: FakeWorker, job_id: str, gateway: Gateway
):
    call = jobs.WatchJob(WatchJobRequest(job_id=job_id, data_encoding=DATA_ENCODING_JSON))
    (submitted,) = (await read_response(call)).events
    assert (submitted.type, submitted.seq) == (JOB_EVENT_TYPE_SUBMITTED, 1)
    assert (submitted.job_id, submitted.job_type, submitted.queue) == (
        job_id,
        "square_sum",
        "math",
    )
    await worker.start_job(job_id)
    (started,) = (await read_response(call)).events
    assert (started.type, started.seq, started.attempt) == (JOB_EVENT_TYPE_STARTED, 2, 1)
    assert started.worker_id == str(worker.id)
    await worker.report(job_id, output='{"n": 12345678901234567890}')
    (output,) = (await read_response(call)).events
    assert output.type == JOB_EVENT_TYPE_OUTPUT
    assert output.output.json == b'{"n": 12345678901234567890}'
    await worker.fail(job_id)
    (failed,) = (await read_response(call)).events
    assert (failed.type, failed.seq, failed.error.message) == (
        JOB_EVENT_TYPE_FAILED,
        4,
        "it broke",
    )
    assert await read_response(call) is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK

    late = jobs.WatchJob(WatchJobRequest(job_id=job_id, after_seq=2))
    assert [event.seq for event in (await read_response(late)).events] == [3, 4]
    assert await read_response(late) is grpc.aio.EOF
    await until_no_streams(gateway)


async def test_invalid_watch_is_rejected(jobs: JobServiceStub, job_id: str):
    unknown = await rpc_error(
        read_response(jobs.WatchJob(WatchJobRequest(job_id="0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15")))
    )
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    malformed = await rpc_error(
        read_response(jobs.WatchJob(WatchJobRequest(job_id="x", after_seq=-1, data_encoding=9)))
    )
    assert malformed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(malformed.violations) == {"job_id", "after_seq", "data_encoding"}
    cursor = await rpc_error(read_response(jobs.WatchJobs(WatchJobsRequest(cursor="x"))))
    assert (cursor.code, cursor.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID")
    invalid_filter = JobFilter(states=[99], batch_id="x", job_ids=["y"])
    job_filter = await rpc_error(
        read_response(jobs.WatchJobs(WatchJobsRequest(filter=invalid_filter)))
    )
    assert set(job_filter.violations) == {
        "filter.states[0]",
        "filter.batch_id",
        "filter.job_ids[0]",
    }


async def test_watch_of_many_jobs_resumes_by_cursor(
    jobs: JobServiceStub, worker: FakeWorker, job_id: str, gateway: Gateway
):
    request = WatchJobsRequest(filter=JobFilter(queues=["math"]))
    call = jobs.WatchJobs(request)
    first: WatchJobsResponse = await read_response(call)
    while first.mark != WATCH_MARK_CAUGHT_UP:
        first = await read_response(call)
    await worker.start_job(job_id)
    started: WatchJobsResponse = await read_response(call)
    while started.events[-1].type != JOB_EVENT_TYPE_STARTED:
        started = await read_response(call)
    assert started.mark == WATCH_MARK_UNSPECIFIED
    call.cancel()
    await until_no_streams(gateway)

    other = SubmitJobRequest(job=JobSpec(type="email", queue="mail"))
    await jobs.SubmitJob(other)
    await worker.succeed(job_id)
    request.cursor = started.cursor
    resumed = jobs.WatchJobs(request)
    events = []
    while not events:
        events += (await read_response(resumed)).events
    assert [(event.job_id, event.seq) for event in events] == [(job_id, 3)]
    resumed.cancel()
    # The filter is not part of the cursor.
    request.filter.Clear()
    request.filter.states.append(JOB_STATE_QUEUED)
    request.filter.queues.append("mail")
    mail = jobs.WatchJobs(request)
    events = []
    while not events:
        events += (await read_response(mail)).events
    assert [event.job_type for event in events] == ["email"]
    mail.cancel()
    await until_no_streams(gateway)


async def test_cancelled_streams_are_released(jobs: JobServiceStub, job_id: str, gateway: Gateway):
    calls = [jobs.WatchJob(WatchJobRequest(job_id=job_id)) for _ in range(50)]
    calls += [jobs.WatchJobs(WatchJobsRequest()) for _ in range(50)]
    for call in calls[::2]:
        await read_response(call)
    for call in calls:
        call.cancel()
    await until_no_streams(gateway)


async def test_stopped_gateway_ends_its_streams(
    jobs: JobServiceStub, job_id: str, gateway: Gateway
):
    one = jobs.WatchJob(WatchJobRequest(job_id=job_id))
    all_jobs = jobs.WatchJobs(WatchJobsRequest())
    await read_response(one)
    await read_response(all_jobs)
    stopping = asyncio.create_task(gateway.stop())
    for call in (one, all_jobs):
        with pytest.raises(grpc.aio.AioRpcError) as excinfo:
            while await read_response(call) is not grpc.aio.EOF:
                pass
        error = read_error(excinfo.value)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    await stopping

"""Stalled stream readers, and other readers on the same connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc.aio import EOF

from headrace.v1.data_pb2 import DATA_ENCODING_JSON, Data
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import (
    WATCH_MARK_CAUGHT_UP,
    GetStatsRequest,
    SubmitAndWatchRequest,
    SubmitJobRequest,
    WatchJobRequest,
    WatchJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from support.gateway import TIMEOUT, FakeWorker, read_error
from support.until import until

# The time for which a reader may stall in these tests, in seconds.
PATIENCE_S = 0.5

# Channel options for a flow-control window that does not grow.
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)]

# An output of the maximum size. A few outputs fill the window and gRPC's buffer.
OUTPUT = '"' + 60_000 * "x" + '"'
OUTPUTS = 12

# The numbers of the events before the start of a stream of all jobs, which may still send them.
PRECEDING_SEQS = {1, 2}

SPEC = JobSpec(type="square_sum", payload=Data(json=b'{"data": [1, 2, 3]}'))


@pytest.fixture
def patience() -> float:
    return PATIENCE_S


@pytest.fixture
def settings(settings: Settings, patience: float) -> Settings:
    return settings.model_copy(update={"stream_patience": patience, "stream_queue_events": 5})


@pytest.fixture
async def slow_jobs(gateway: Gateway) -> AsyncIterator[JobServiceStub]:
    """Calls over a connection with a small window."""
    target = f"127.0.0.1:{gateway.port}"
    async with grpc.aio.insecure_channel(target, options=SMALL_WINDOW) as channel:
        yield JobServiceStub(channel)


@pytest.fixture
async def job_id(worker: FakeWorker, jobs: JobServiceStub) -> str:
    """A running job."""
    job_id = (await jobs.SubmitJob(SubmitJobRequest(job=SPEC))).job.id
    await worker.start_job(job_id)
    return job_id


def watch_jobs(stub: JobServiceStub, cursor: str = "") -> Any:
    return stub.WatchJobs(WatchJobsRequest(cursor=cursor, data_encoding=DATA_ENCODING_JSON))


def watch_job(stub: JobServiceStub, job_id: str, after_seq: int = 0) -> Any:
    return stub.WatchJob(
        WatchJobRequest(job_id=job_id, after_seq=after_seq, data_encoding=DATA_ENCODING_JSON)
    )


async def until_live(call: Any) -> None:
    """Wait until a stream of many jobs has caught up."""
    async with asyncio.timeout(TIMEOUT):
        response = await call.read()
        while response.mark != WATCH_MARK_CAUGHT_UP:
            response = await call.read()


async def read_seqs(call: Any, *, through: int) -> list[int]:
    """Return the event numbers up to `through`."""
    seqs: list[int] = []
    async with asyncio.timeout(TIMEOUT):
        while not seqs or seqs[-1] < through:
            response = await call.read()
            assert response is not EOF
            seqs += [event.seq for event in response.events]
    return seqs


async def read_rest(call: Any) -> tuple[list[int], grpc.aio.AioRpcError]:
    """Return the remaining event numbers, and the error that ends the stream."""
    seqs: list[int] = []
    async with asyncio.timeout(TIMEOUT):
        try:
            while True:
                response = await call.read()
                assert response is not EOF
                seqs += [event.seq for event in response.events]
        except grpc.aio.AioRpcError as error:
            return seqs, error


async def emit(worker: FakeWorker, job_id: str, count: int = OUTPUTS) -> None:
    for _ in range(count):
        await worker.report(job_id, output=OUTPUT)


async def until_ended(gateway: Gateway, *, slow_consumers: int = 0, resets: int = 0) -> None:
    await until(
        lambda: (gateway.gauges.slow_consumers, gateway.gauges.resets) == (slow_consumers, resets)
    )


def count_kept_calls() -> int:
    """Return the number of calls that grpc.aio still holds."""
    return sum(task.get_name() == "rpc_task" for task in asyncio.all_tasks())


async def test_stalled_reader_receives_its_cursor(
    gateway: Gateway,
    jobs: JobServiceStub,
    slow_jobs: JobServiceStub,
    worker: FakeWorker,
    job_id: str,
):
    stalled, reading = watch_jobs(slow_jobs), watch_jobs(jobs)
    for call in (stalled, reading):
        await until_live(call)
    last = 2 + OUTPUTS
    read = asyncio.create_task(read_seqs(reading, through=last))
    await emit(worker, job_id)
    # The active reader receives every event while the other one is stalled.
    assert set(await read) - PRECEDING_SEQS == set(range(3, last + 1))
    await until_ended(gateway, slow_consumers=1)
    assert gateway.gauges.filter_streams == 1
    seen, error = await read_rest(stalled)
    error_info = read_error(error)
    assert (error_info.code, error_info.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "SLOW_CONSUMER",
    )
    assert "0.5 s" in error_info.message
    assert seen
    assert last not in seen
    resumed = await read_seqs(watch_jobs(slow_jobs, error_info.metadata["cursor"]), through=last)
    # No event is missing, and only events that were read late are sent again.
    assert resumed[0] <= seen[-1] + 1
    assert sorted({*seen, *resumed} - PRECEDING_SEQS) == list(range(3, last + 1))
    assert not reading.done()
    reading.cancel()


@pytest.mark.parametrize("begun", [0, 2])
async def test_stalled_reader_of_one_job_resumes_by_number(
    gateway: Gateway, slow_jobs: JobServiceStub, worker: FakeWorker, job_id: str, begun: int
):
    stalled = watch_job(slow_jobs, job_id, begun)
    await emit(worker, job_id)
    await until_ended(gateway, slow_consumers=1)
    seen, error = await read_rest(stalled)
    error_info = read_error(error)
    assert error_info.reason == "SLOW_CONSUMER"
    after_seq = int(error_info.metadata["after_seq"])
    assert begun <= after_seq <= seen[-1]
    assert seen == list(range(begun + 1, seen[-1] + 1))
    last = 2 + OUTPUTS
    resumed = await read_seqs(watch_job(slow_jobs, job_id, after_seq), through=last)
    assert resumed == list(range(after_seq + 1, last + 1))


async def test_stalled_submit_and_watch_resumes_by_number(
    gateway: Gateway, slow_jobs: JobServiceStub, worker: FakeWorker
):
    def follow(after_seq: int) -> Any:
        return slow_jobs.SubmitAndWatch(
            SubmitAndWatchRequest(
                job=SPEC, request_id="a", after_seq=after_seq, data_encoding=DATA_ENCODING_JSON
            )
        )

    stalled = follow(0)
    async with asyncio.timeout(TIMEOUT):
        job_id = (await stalled.read()).job.id
    await worker.start_job(job_id)
    await emit(worker, job_id)
    await until_ended(gateway, slow_consumers=1)
    seen, error = await read_rest(stalled)
    after_seq = int(read_error(error).metadata["after_seq"])
    resumed = await read_seqs(follow(after_seq), through=2 + OUTPUTS)
    assert sorted({*seen, *resumed}) == list(range(1, 3 + OUTPUTS))


async def test_reader_that_never_resumes_is_released(
    gateway: Gateway,
    slow_jobs: JobServiceStub,
    worker: FakeWorker,
    job_id: str,
):
    """The gateway resets the reader's calls, and keeps the other calls on the connection."""
    stalled = [watch_jobs(slow_jobs) for _ in range(3)]
    other_stream = watch_job(slow_jobs, job_id, 2)
    for call in stalled:
        await until_live(call)
    last = 2 + OUTPUTS
    read = asyncio.create_task(read_seqs(other_stream, through=last))
    await emit(worker, job_id)
    assert await read == list(range(3, last + 1))
    await until_ended(gateway, slow_consumers=3, resets=3)
    # Only the call of the other stream remains; grpc.aio holds the newest call until the next one.
    await until(lambda: count_kept_calls() == 1)
    await slow_jobs.GetStats(GetStatsRequest(), timeout=TIMEOUT)
    for call in stalled:
        _, error = await read_rest(call)
        assert error.code() is grpc.StatusCode.CANCELLED
    await worker.succeed(job_id)
    assert await read_seqs(other_stream, through=last + 1) == [last + 1]
    async with asyncio.timeout(TIMEOUT):
        assert await other_stream.read() is EOF


# With this patience, the readers disconnect first, even on a slow machine.
@pytest.mark.parametrize("patience", [60.0])
async def test_reader_that_disconnects_is_not_a_slow_consumer(
    gateway: Gateway,
    slow_jobs: JobServiceStub,
    worker: FakeWorker,
    job_id: str,
    caplog: pytest.LogCaptureFixture,
):
    stalled = [watch_jobs(slow_jobs), watch_job(slow_jobs, job_id)]
    await until_live(stalled[0])
    await emit(worker, job_id)
    # All events have reached the streams. Their writes are blocked because the window is full.
    await until(lambda: gateway.gauges.events >= OUTPUTS)
    await until(lambda: gateway.gauges.job_streams == gateway.gauges.filter_streams == 1)
    with caplog.at_level(logging.WARNING):
        for call in stalled:
            call.cancel()
        await until(lambda: count_kept_calls() == 0)
    assert gateway.gauges.filter_streams == gateway.gauges.job_streams == 0
    assert gateway.gauges.slow_consumers == gateway.gauges.resets == 0
    assert caplog.records == []


async def test_slow_but_active_reader_is_not_ended(
    gateway: Gateway, slow_jobs: JobServiceStub, worker: FakeWorker, job_id: str
):
    """The test reads each message within the patience, but all messages take longer."""
    call = watch_jobs(slow_jobs)
    await until_live(call)
    await emit(worker, job_id)
    seqs: list[int] = []
    while seqs[-1:] != [2 + OUTPUTS]:
        await asyncio.sleep(PATIENCE_S / 5)
        async with asyncio.timeout(TIMEOUT):
            seqs += [event.seq for event in (await call.read()).events]
    assert gateway.gauges.slow_consumers == 0
    call.cancel()


async def test_stop_does_not_wait_for_a_stalled_reader(
    settings: Settings, worker: FakeWorker, database: Any
):
    long_patience = settings.model_copy(update={"stream_patience": 60.0, "shutdown_grace": 0.5})
    gateway = Gateway(long_patience)
    await gateway.start()
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{gateway.port}", options=SMALL_WINDOW
    ) as channel:
        stub = JobServiceStub(channel)
        job_id = (await stub.SubmitJob(SubmitJobRequest(job=SPEC))).job.id
        await worker.start_job(job_id)
        stalled = watch_jobs(stub)
        await until_live(stalled)
        await emit(worker, job_id)
        async with asyncio.timeout(long_patience.shutdown_grace + 3):
            await gateway.stop()

"""ListJobLogs and WatchJobLogs over gRPC: pages, live lines and the end of the stream."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest

from headrace.v1.data_pb2 import DATA_ENCODING_JSON, Data
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import (
    JOB_LOG_LEVEL_WARNING,
    WATCH_MARK_CAUGHT_UP,
    WATCH_MARK_IDLE,
    CancelJobRequest,
    JobLogLine,
    ListJobLogsRequest,
    SubmitJobRequest,
    WatchJobLogsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import JobId, WorkerId, uuid7
from headrace_core.domain.job_log import LogChunk, LogLevel, LogLine
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.jobs.end import end_attempts
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from support import workers
from support.gateway import TIMEOUT, FakeWorker

TIME = datetime(2026, 11, 30, 12, 0, 0, 250_000, tzinfo=UTC)


def line(message: str, **fields: Any) -> LogLine:
    return LogLine(TIME, LogLevel.INFO, "shop.orders", message, **fields)


@pytest.fixture
async def job_id(worker: FakeWorker, jobs: JobServiceStub) -> str:
    """A running job."""
    spec = JobSpec(type="square_sum", payload=Data(json=b'{"data": [1]}'))
    job_id: str = (await jobs.SubmitJob(SubmitJobRequest(job=spec))).job.id
    await worker.start_job(job_id)
    return job_id


async def read(call: Any) -> Any:
    async with asyncio.timeout(TIMEOUT):
        return await call.read()


async def read_to_end(call: Any) -> list[str]:
    """Return the messages of the remaining lines of a stream, which must end with OK."""
    messages: list[str] = []
    while (response := await read(call)) is not grpc.aio.EOF:
        messages += [one.message for one in response.lines]
    assert await call.code() is grpc.StatusCode.OK
    return messages


async def list_lines(jobs: JobServiceStub, job_id: str, *, size: int = 0) -> list[JobLogLine]:
    """Return the whole log, which is read in pages of `size` lines."""
    request = ListJobLogsRequest(job_id=job_id, page_size=size, data_encoding=DATA_ENCODING_JSON)
    lines: list[JobLogLine] = []
    while True:
        page = await jobs.ListJobLogs(request)
        assert len(page.lines) <= (size or 100)
        lines += page.lines
        if not page.next_after_position:
            return lines
        request.after_position = page.next_after_position


async def test_line_has_all_its_fields(
    jobs: JobServiceStub, worker: FakeWorker, job_id: str
) -> None:
    full = LogLine(TIME, LogLevel.WARNING, "shop", "late\nby far", '{"rows":3}', dropped=2)
    await worker.log(job_id, full, last=1)
    [found] = await list_lines(jobs, job_id)
    expected = JobLogLine(
        position=1_000_001,
        attempt=1,
        line=1,
        level=JOB_LOG_LEVEL_WARNING,
        logger="shop",
        message="late\nby far",
        fields=Data(json=b'{"rows":3}'),
        dropped_lines=2,
    )
    expected.log_time.FromDatetime(TIME)
    assert found == expected


@pytest.mark.parametrize("size", [1, 2, 7, 0])
async def test_pages_cut_stored_groups_of_lines(
    jobs: JobServiceStub, worker: FakeWorker, job_id: str, size: int
) -> None:
    for first in range(0, 90, 3):
        group = [line(str(number)) for number in range(first, first + 3)]
        await worker.log(job_id, *group, last=first + 3)
    found = await list_lines(jobs, job_id, size=size)
    assert [one.message for one in found] == [str(number) for number in range(90)]
    assert [one.line for one in found] == list(range(1, 91))


async def test_more_groups_than_one_statement_reads_are_complete(
    jobs: JobServiceStub, worker: FakeWorker, job_id: str
) -> None:
    for number in range(1, 131):
        await worker.log(job_id, line(str(number)), last=number)
    expected = [str(number) for number in range(1, 131)]
    assert [one.message for one in await list_lines(jobs, job_id)] == expected
    watch = jobs.WatchJobLogs(WatchJobLogsRequest(job_id=job_id))
    received: list[str] = []
    while not (response := await read(watch)).mark:
        received += [one.message for one in response.lines]
    assert (received, response.mark) == (expected, WATCH_MARK_CAUGHT_UP)
    watch.cancel()


async def test_repeated_write_stores_a_line_once(
    jobs: JobServiceStub, worker: FakeWorker, job_id: str
) -> None:
    for _ in range(2):
        await worker.log(job_id, line("a"), line("b"), last=2)
    assert [one.message for one in await list_lines(jobs, job_id)] == ["a", "b"]


async def test_lines_of_another_worker_or_attempt_are_dropped(
    jobs: JobServiceStub, worker: FakeWorker, job_id: str, database: Database
) -> None:
    await worker.log(job_id, line("early"), last=1, attempt=2)
    stranger = FakeWorker(database)
    stranger.id = WorkerId(uuid7())
    await stranger.log(job_id, line("foreign"), last=1)
    assert await list_lines(jobs, job_id) == []


async def test_watch_sends_past_and_live_lines_until_the_end(
    jobs: JobServiceStub, worker: FakeWorker, job_id: str, database: Database, bus: WakeBus
) -> None:
    await worker.log(job_id, line("past"), last=1)
    watch = jobs.WatchJobLogs(WatchJobLogsRequest(job_id=job_id))
    assert [one.message for one in (await read(watch)).lines] == ["past"]
    assert (await read(watch)).mark == WATCH_MARK_CAUGHT_UP
    await worker.log(job_id, line("live"), last=2)
    bus.publish(Topic.LOGS)
    assert [one.message for one in (await read(watch)).lines] == ["live"]
    # The last lines are stored in the transaction that ends the attempt.
    key = AttemptKey(JobId(UUID(job_id)), 1)
    end = workers.attempt_end(key.job_id, key.attempt, EventType.SUCCEEDED)
    async with database.statement() as connection:
        assert await end_attempts(
            connection, worker_id=worker.id, ends=[end], logs=[LogChunk(key, 3, [line("last")])]
        )
    bus.publish(Topic.EVENTS)
    assert await read_to_end(watch) == ["last"]


async def test_watch_finds_lines_without_wake_ups(
    jobs: JobServiceStub, worker: FakeWorker, job_id: str
) -> None:
    watches = [jobs.WatchJobLogs(WatchJobLogsRequest(job_id=job_id)) for _ in range(3)]
    for watch in watches:
        assert (await read(watch)).mark == WATCH_MARK_CAUGHT_UP
    await worker.log(job_id, line("quiet"), last=1)
    for watch in watches:
        assert [one.message for one in (await read(watch)).lines] == ["quiet"]
        watch.cancel()


async def test_quiet_watch_sends_marks_and_ends_without_a_start(
    jobs: JobServiceStub, worker: FakeWorker
) -> None:
    spec = JobSpec(type="square_sum", payload=Data(json=b'{"data": [1]}'))
    job_id = (await jobs.SubmitJob(SubmitJobRequest(job=spec))).job.id
    request = WatchJobLogsRequest(job_id=job_id)
    request.idle_interval.FromSeconds(1)
    watch = jobs.WatchJobLogs(request)
    assert (await read(watch)).mark == WATCH_MARK_CAUGHT_UP
    assert (await read(watch)).mark == WATCH_MARK_IDLE
    await jobs.CancelJob(CancelJobRequest(job_id=job_id))
    assert await read_to_end(watch) == []


async def test_watch_resumes_after_a_position(
    jobs: JobServiceStub, worker: FakeWorker, job_id: str
) -> None:
    await worker.log(job_id, line("a"), line("b"), line("c"), last=3)
    await worker.succeed(job_id)
    for after, expected in ((0, "abc"), (1_000_002, "c"), (1_000_003, ""), (2**63 - 1, "")):
        request = WatchJobLogsRequest(job_id=job_id, after_position=after)
        assert await read_to_end(jobs.WatchJobLogs(request)) == list(expected)

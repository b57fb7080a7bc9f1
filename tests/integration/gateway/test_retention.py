"""Clients and pruned jobs: errors name the oldest usable cursor."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from headrace.v1.job_pb2 import JOB_STATE_FAILED, JobSpec
from headrace.v1.job_service_pb2 import (
    WATCH_MARK_CAUGHT_UP,
    CancelJobRequest,
    GetJobRequest,
    JobFilter,
    ListJobEventsRequest,
    ListJobsRequest,
    RetryJobRequest,
    SubmitAndWatchRequest,
    SubmitJobRequest,
    WatchJobRequest,
    WatchJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import JobState
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation, read_installation
from headrace_gateway.tokens import decode_cursor, encode_cursor
from support.gateway import TIMEOUT, rpc_error
from support.jobs import set_column
from support.retention import prune

CURSOR_EXPIRED = (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
CURSOR_INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID")


async def read_response(call: Any) -> Any:
    async with asyncio.timeout(TIMEOUT):
        return await call.read()


async def submit_jobs(jobs: JobServiceStub, count: int = 1) -> list[str]:
    spec = JobSpec(type="email", queue="mail")
    return [(await jobs.SubmitJob(SubmitJobRequest(job=spec))).job.id for _ in range(count)]


async def cancel(jobs: JobServiceStub, *ids: str) -> None:
    for job_id in ids:
        await jobs.CancelJob(CancelJobRequest(job_id=job_id))


async def read_past(
    jobs: JobServiceStub, cursor: str = ""
) -> tuple[list[tuple[str, int]], list[str]]:
    """Return all present events after a cursor, and the cursors of their pages."""
    call = jobs.WatchJobs(WatchJobsRequest(cursor=cursor))
    events, cursors = [], []
    while True:
        response = await read_response(call)
        events += [(event.job_id, event.seq) for event in response.events]
        cursors.append(response.cursor)
        if response.mark == WATCH_MARK_CAUGHT_UP:
            call.cancel()
            return events, cursors


@pytest.fixture
async def installation(database: Database) -> Installation:
    async with database.transaction() as connection:
        return await read_installation(connection)


async def test_expired_cursor_names_the_oldest_cursor(jobs: JobServiceStub, database: Database):
    _, (oldest_cursor,) = await read_past(jobs)
    old = await submit_jobs(jobs, 3)
    (kept,) = await submit_jobs(jobs)
    await cancel(jobs, *old)
    (recent,) = await submit_jobs(jobs)
    # The gateway has settled all events that it has sent.
    resumed_stream = jobs.WatchJobs(WatchJobsRequest(cursor=oldest_cursor))
    seen: list[Any] = []
    while len(seen) < 8:
        seen += (await read_response(resumed_stream)).events
    resumed_stream.cancel()
    assert (await prune(database)).jobs == 3

    error = await rpc_error(read_response(jobs.WatchJobs(WatchJobsRequest(cursor=oldest_cursor))))
    assert (error.code, error.reason) == CURSOR_EXPIRED
    assert set(error.metadata) == {"oldest_cursor"}
    oldest = error.metadata["oldest_cursor"]
    events, _ = await read_past(jobs, oldest)
    # The stream sends all remaining events after the start.
    assert events == [(recent, 1)]
    assert (await jobs.GetJob(GetJobRequest(job_id=kept))).job.id == kept


async def test_oldest_cursor_is_valid(
    jobs: JobServiceStub, database: Database, installation: Installation
):
    _, (log_start,) = await read_past(jobs)
    (old,) = await submit_jobs(jobs)
    await cancel(jobs, old)
    await submit_jobs(jobs, 2)
    assert (await prune(database)).jobs == 1
    error = await rpc_error(read_response(jobs.WatchJobs(WatchJobsRequest(cursor=log_start))))
    start = decode_cursor(installation, DEFAULT_TENANT, error.metadata["oldest_cursor"])
    start_cursor = encode_cursor(installation, DEFAULT_TENANT, *start)
    assert start_cursor == error.metadata["oldest_cursor"]
    assert len((await read_past(jobs, start_cursor))[0]) == 2
    earlier_cursor = encode_cursor(installation, DEFAULT_TENANT, start[0], start[1] - 1)
    error = await rpc_error(read_response(jobs.WatchJobs(WatchJobsRequest(cursor=earlier_cursor))))
    assert (error.code, error.reason) == CURSOR_EXPIRED
    assert error.metadata["oldest_cursor"] == start_cursor


async def test_cursor_of_another_database_is_invalid(
    jobs: JobServiceStub, database: Database, installation: Installation
):
    (old,) = await submit_jobs(jobs)
    await cancel(jobs, old)
    assert (await prune(database)).jobs == 1
    other_database = Installation(id=uuid4(), secret=installation.secret)
    forged_installation = Installation(id=installation.id, secret=bytes(32))
    valid_cursor = encode_cursor(installation, DEFAULT_TENANT, 1, 1)
    error = await rpc_error(read_response(jobs.WatchJobs(WatchJobsRequest(cursor=valid_cursor))))
    assert (error.code, error.reason) == CURSOR_EXPIRED
    for cursor in (
        encode_cursor(other_database, DEFAULT_TENANT, 1, 1),
        encode_cursor(forged_installation, DEFAULT_TENANT, 1, 1),
        encode_cursor(installation, "other", 1, 1),
        valid_cursor[:-1],
        valid_cursor[:5] + ("A" if valid_cursor[5] != "A" else "B") + valid_cursor[6:],
        "no cursor at all",
    ):
        error = await rpc_error(read_response(jobs.WatchJobs(WatchJobsRequest(cursor=cursor))))
        assert (error.code, error.reason) == CURSOR_INVALID


async def test_pruned_job_is_not_found(jobs: JobServiceStub, database: Database):
    (old,) = await submit_jobs(jobs)
    await cancel(jobs, old)
    assert (await prune(database)).jobs == 1
    for call in (
        jobs.GetJob(GetJobRequest(job_id=old)),
        read_response(jobs.WatchJob(WatchJobRequest(job_id=old))),
        read_response(jobs.WatchJob(WatchJobRequest(job_id=old, after_seq=2))),
        jobs.CancelJob(CancelJobRequest(job_id=old)),
    ):
        error = await rpc_error(call)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


async def test_request_id_of_pruned_job_is_free(jobs: JobServiceStub, database: Database):
    request = SubmitAndWatchRequest(job=JobSpec(type="email", queue="mail"), request_id="order-17")
    first = (await read_response(jobs.SubmitAndWatch(request))).job.id
    assert (await read_response(jobs.SubmitAndWatch(request))).job.id == first
    await cancel(jobs, first)
    assert (await prune(database)).jobs == 1
    assert (await read_response(jobs.SubmitAndWatch(request))).job.id != first


async def test_pages_are_stable_while_jobs_are_pruned(jobs: JobServiceStub, database: Database):
    ids = await submit_jobs(jobs, 6)
    first = await jobs.ListJobs(ListJobsRequest(page_size=2))
    assert [job.id for job in first.jobs] == ids[:-3:-1]
    # Prune the last job of the page, the next one and the oldest one.
    await cancel(jobs, ids[4], ids[3], ids[0])
    assert (await prune(database)).jobs == 3
    remaining, token = [], first.next_page_token
    while token:
        page = await jobs.ListJobs(ListJobsRequest(page_size=1, page_token=token))
        remaining += [job.id for job in page.jobs]
        token = page.next_page_token
    assert remaining == [ids[2], ids[1]]


async def test_kept_job_has_events_before_the_log_start(jobs: JobServiceStub, database: Database):
    _, (oldest_cursor,) = await read_past(jobs)
    (kept,) = await submit_jobs(jobs)
    await cancel(jobs, kept)
    others = await submit_jobs(jobs, 2)
    await cancel(jobs, *others)
    failed = 'state = \'failed\', error = \'{"type": "E", "message": "", "retryable": false}\''
    await set_column(database, JobId(UUID(kept)), failed)
    assert (await prune(database, state=JobState.CANCELLED)).jobs == 2

    assert (await jobs.GetJob(GetJobRequest(job_id=kept))).job.state == JOB_STATE_FAILED
    listed = await jobs.ListJobEvents(ListJobEventsRequest(job_id=kept))
    assert [event.seq for event in listed.events] == [1, 2]
    shown: list[int] = []
    async with asyncio.timeout(TIMEOUT):
        async for response in jobs.WatchJob(WatchJobRequest(job_id=kept)):
            shown += [event.seq for event in response.events]
    assert shown == [1, 2]
    # A stream of many jobs can no longer start at this cursor, but misses no event after the log
    # start.
    kept_job_filter = JobFilter(job_ids=[kept])
    old = WatchJobsRequest(filter=kept_job_filter, cursor=oldest_cursor)
    error = await rpc_error(read_response(jobs.WatchJobs(old)))
    assert (error.code, error.reason) == CURSOR_EXPIRED
    await jobs.RetryJob(RetryJobRequest(job_id=kept))
    request = WatchJobsRequest(filter=kept_job_filter, cursor=error.metadata["oldest_cursor"])
    resumed_stream = jobs.WatchJobs(request)
    later_events: list[Any] = []
    while not later_events:
        later_events += (await read_response(resumed_stream)).events
    resumed_stream.cancel()
    assert [(event.job_id, event.seq) for event in later_events] == [(kept, 3)]

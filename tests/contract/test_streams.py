"""Streams of one job and of many: order, completeness, resumption, marks and ends."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from grpc.aio import EOF

from headrace import Client, CursorExpired, InvalidRequest, JobEventType, JobSpec, JobState
from headrace.v1 import job_service_pb2 as pb
from headrace.v1.job_pb2 import JobSpec as Spec
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from support.contract import IDLE, SCRIPTED, Driver
from support.gateway import TIMEOUT, rpc_error

pytestmark = pytest.mark.asyncio(loop_scope="module")

T = JobEventType
ONE_SECOND = Duration(seconds=1)


async def read(call: Any) -> Any:
    async with asyncio.timeout(TIMEOUT):
        return await call.read()


async def read_rest(call: Any) -> list[Any]:
    """Return the responses up to the end of the stream."""
    responses = []
    while (response := await read(call)) is not EOF:
        responses.append(response)
    return responses


async def read_events(call: Any, count: int) -> list[Any]:
    """Read at least `count` events; assert that each response has either events or a mark."""
    events: list[Any] = []
    while len(events) < count:
        response = await read(call)
        assert bool(response.events) != bool(response.mark)
        events += response.events
    return events


async def read_ids(events: Any, count: int) -> list[Any]:
    async with asyncio.timeout(TIMEOUT):
        return [await anext(events) for _ in range(count)]


def event_ids(events: list[Any]) -> list[tuple[str, int]]:
    return [(event.job_id, event.seq) for event in events]


async def ended_job(client: Client, driver: Driver) -> str:
    job = await client.submit(SCRIPTED, {})
    await driver.start(job.id)
    await driver.emit(job.id, "piece")
    await driver.succeed(job.id)
    return job.id


# One job


async def test_job_stream_ends_ok_after_the_terminal_event(
    jobs: JobServiceStub, client: Client, driver: Driver
):
    job = await client.submit(SCRIPTED, {})
    call = jobs.WatchJob(pb.WatchJobRequest(job_id=job.id))
    await driver.start(job.id)
    await driver.emit(job.id, "piece")
    await driver.succeed(job.id)
    remaining = [event.seq for response in await read_rest(call) for event in response.events]
    assert remaining == [1, 2, 3, 4]
    assert await call.code() == StatusCode.OK


async def test_late_watch_receives_the_same_events_as_an_early_one(client: Client, driver: Driver):
    job = await client.submit(SCRIPTED, {})
    early = asyncio.create_task(collect(client, job.id))
    await driver.start(job.id)
    await driver.progress(job.id, 0.25, "a quarter")
    await driver.fail(job.id, "it broke")
    seen = await early
    assert seen == await collect(client, job.id)
    assert [event.seq for event in seen] == [1, 2, 3, 4]
    assert [event.type for event in seen] == [T.SUBMITTED, T.STARTED, T.PROGRESSED, T.FAILED]


async def collect(client: Client, job_id: str, after_seq: int = 0) -> list[Any]:
    async with asyncio.timeout(TIMEOUT):
        return [event async for event in client.watch_job(job_id, after_seq=after_seq)]


async def test_watch_resumes_after_a_number(client: Client, driver: Driver):
    job_id = await ended_job(client, driver)
    assert [event.seq for event in await collect(client, job_id, 2)] == [3, 4]


async def test_watch_beyond_the_end_is_empty(jobs: JobServiceStub, client: Client, driver: Driver):
    job_id = await ended_job(client, driver)
    call = jobs.WatchJob(pb.WatchJobRequest(job_id=job_id, after_seq=100))
    assert await read_rest(call) == []
    assert await call.code() == StatusCode.OK


async def test_quiet_job_stream_sends_idle_marks(jobs: JobServiceStub, client: Client):
    job = await client.submit(IDLE)
    call = jobs.WatchJob(pb.WatchJobRequest(job_id=job.id, idle_interval=ONE_SECOND))
    assert event_ids(await read_events(call, 1)) == [(job.id, 1)]
    for _ in range(2):
        mark = await read(call)
        assert (mark.mark, len(mark.events)) == (pb.WATCH_MARK_IDLE, 0)
    call.cancel()


async def test_idle_interval_has_bounds(jobs: JobServiceStub, client: Client):
    job = await client.submit(IDLE)
    long = Duration(seconds=61)
    for call in (
        jobs.WatchJob(pb.WatchJobRequest(job_id=job.id, idle_interval=long)),
        jobs.WatchJobs(pb.WatchJobsRequest(idle_interval=long)),
    ):
        error = await rpc_error(call.read())
        assert error.code == StatusCode.INVALID_ARGUMENT
        assert error.violations.keys() == {"idle_interval"}


async def test_watch_of_an_unknown_job_ends(jobs: JobServiceStub):
    job_id = str(uuid4())
    error = await rpc_error(jobs.WatchJob(pb.WatchJobRequest(job_id=job_id)).read())
    assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    assert error.metadata == {"job_id": job_id}


async def test_watch_of_a_requeued_job_sends_both_runs(client: Client):
    job = await client.submit(IDLE)
    await job.cancel()
    await job.retry()
    await job.cancel()
    seen = [event.type for event in await collect(client, job.id)]
    assert seen == [T.SUBMITTED, T.CANCELLED, T.REQUEUED, T.CANCELLED]


# Submit and watch


async def test_submit_and_watch_sends_the_job_first(jobs: JobServiceStub, driver: Driver):
    request = pb.SubmitAndWatchRequest(job=Spec(type=SCRIPTED))
    call = jobs.SubmitAndWatch(request)
    first = await read(call)
    assert first.HasField("job")
    assert not first.events
    job_id = first.job.id
    await driver.start(job_id)
    await driver.succeed(job_id)
    remaining = await read_rest(call)
    assert not any(response.HasField("job") for response in remaining)
    assert [event.seq for response in remaining for event in response.events] == [1, 2, 3]
    assert await call.code() == StatusCode.OK


async def test_repeated_submit_and_watch_returns_the_same_job(
    jobs: JobServiceStub, client: Client, name: str
):
    job = await client.submit(IDLE, request_id=name)
    await job.cancel()
    spec = Spec(type=IDLE)
    spec.payload.json = b"{}"
    request = pb.SubmitAndWatchRequest(job=spec, request_id=name, after_seq=1)
    call = jobs.SubmitAndWatch(request)
    assert (await read(call)).job.id == job.id
    assert event_ids(await read_events(call, 1)) == [(job.id, 2)]


async def test_submit_and_watch_reports_violations(jobs: JobServiceStub):
    error = await rpc_error(jobs.SubmitAndWatch(pb.SubmitAndWatchRequest()).read())
    assert (error.code, error.violations.keys()) == (StatusCode.INVALID_ARGUMENT, {"job"})


# Many jobs


async def test_watch_of_many_jobs_is_live_after_the_mark(client: Client, name: str):
    async with client.watch(queues=[name]) as watch:
        assert watch.caught_up
        first = await client.submit(IDLE, queue=name)
        await client.submit(IDLE)
        second = await client.submit(IDLE, queue=name)
        await first.cancel()
        events = await read_ids(watch, 3)
    assert sorted(event_ids(events)) == sorted([(first.id, 1), (second.id, 1), (first.id, 2)])
    of_first = [event.seq for event in events if event.job_id == first.id]
    assert of_first == [1, 2]


async def test_marks_of_many_jobs_have_cursors(jobs: JobServiceStub, client: Client, name: str):
    job_filter = pb.JobFilter(queues=[name])
    call = jobs.WatchJobs(pb.WatchJobsRequest(filter=job_filter, idle_interval=ONE_SECOND))
    caught_up = await read(call)
    assert (caught_up.mark, len(caught_up.events)) == (pb.WATCH_MARK_CAUGHT_UP, 0)
    await client.submit(IDLE)
    idle = await read(call)
    assert (idle.mark, len(idle.events)) == (pb.WATCH_MARK_IDLE, 0)
    job = await client.submit(IDLE, queue=name)
    while not (response := await read(call)).events:
        assert response.mark == pb.WATCH_MARK_IDLE
    assert event_ids(response.events) == [(job.id, 1)]
    call.cancel()
    # A stream repeats an event after an earlier cursor, but not after the cursor of the event.
    for cursor, expected in ((idle.cursor, [(job.id, 1)]), (response.cursor, [])):
        call = jobs.WatchJobs(pb.WatchJobsRequest(filter=job_filter, cursor=cursor))
        received: list[Any] = []
        while (response := await read(call)).mark != pb.WATCH_MARK_CAUGHT_UP:
            received += response.events
        assert event_ids(received) == expected
        assert response.cursor
        call.cancel()


async def test_watch_resumed_after_a_mark_misses_no_event(
    jobs: JobServiceStub, client: Client, name: str
):
    job_filter = pb.JobFilter(queues=[name])
    call = jobs.WatchJobs(pb.WatchJobsRequest(filter=job_filter))
    start = (await read(call)).cursor
    call.cancel()
    past = await client.submit_many([JobSpec(IDLE, queue=name)] * 500)

    # Events that occur while the stream sends past events may precede or follow the mark.
    call = jobs.WatchJobs(pb.WatchJobsRequest(filter=job_filter, cursor=start))
    response = await read(call)
    late = await client.submit(IDLE, queue=name)
    found = event_ids(response.events)
    while response.mark != pb.WATCH_MARK_CAUGHT_UP:
        response = await read(call)
        found += event_ids(response.events)
    call.cancel()
    call = jobs.WatchJobs(pb.WatchJobsRequest(filter=job_filter, cursor=response.cursor))
    while len(found) < 501:
        found += event_ids((await read(call)).events)
    assert sorted(found) == sorted((job.id, 1) for job in (*past, late))
    call.cancel()


async def test_filter_fields_must_all_match(client: Client, name: str):
    async with client.watch(
        queues=[name, "other"], types=[IDLE], states=[JobState.CANCELLED], labels={"team": "ml"}
    ) as watch:
        for options in ({"labels": {"team": "ml"}}, {"queue": name}):
            await (await client.submit(IDLE, **options)).cancel()
        job = await client.submit(IDLE, queue=name, labels={"team": "ml", "x": "y"})
        await job.cancel()
        [event] = await read_ids(watch, 1)
    assert (event.job_id, event.state) == (job.id, JobState.CANCELLED)


async def test_watch_with_job_ids_sends_only_their_events(client: Client):
    first, second = await client.submit(IDLE), await client.submit(IDLE)
    async with client.watch(job_ids=[second.id]) as watch:
        await first.cancel()
        await second.cancel()
        # Until the submit is settled, it counts as a new event.
        while (event := (await read_ids(watch, 1))[0]).seq < 2:
            assert event.job_id == second.id
        assert event.job_id == second.id


async def test_foreign_cursor_is_invalid(jobs: JobServiceStub):
    error = await rpc_error(jobs.WatchJobs(pb.WatchJobsRequest(cursor="bogus")).read())
    assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID")
    assert error.violations.keys() == {"cursor"}


async def test_malformed_ids_in_a_filter_are_invalid(client: Client):
    for options, field in (
        ({"job_ids": ["x"]}, "filter.job_ids[0]"),
        ({"batch_id": "x"}, "filter.batch_id"),
    ):
        with pytest.raises(InvalidRequest) as excinfo:
            async with client.watch(**options):
                pass
        assert [violation.field for violation in excinfo.value.violations] == [field]


async def test_cursor_before_deleted_events_expires(client: Client, driver: Driver, name: str):
    async with client.watch(queues=[name]) as watch:
        cursor = watch.cursor
        job = await client.submit(IDLE, queue=name)
        await job.cancel()
        await read_ids(watch, 2)
    await driver.prune()
    with pytest.raises(CursorExpired) as excinfo:
        async with client.watch(queues=[name], cursor=cursor):
            pass
    async with client.watch(queues=[name], cursor=excinfo.value.oldest_cursor) as watch:
        other = await client.submit(IDLE, queue=name)
        assert event_ids(await read_ids(watch, 1)) == [(other.id, 1)]

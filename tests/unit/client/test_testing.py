"""The controls of `headrace.testing`. tests/contract covers its RPCs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from headrace import (
    Client,
    JobCancelled,
    JobEventType,
    JobFailed,
    JobState,
    StateConflict,
    SyncClient,
    Unavailable,
)
from headrace.testing import FakeGateway
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import (
    WATCH_MARK_CAUGHT_UP,
    WATCH_MARK_UNSPECIFIED,
    WatchJobsRequest,
)

T = JobEventType


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with FakeGateway() as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[Client]:
    async with Client(gateway.target) as client:
        yield client


async def history(client: Client, job_id: str) -> list[JobEventType]:
    return [event.type async for event in client.events(job_id)]


async def test_function_runs_each_job(gateway: FakeGateway, client: Client):
    gateway.handle("double", lambda payload: payload["n"] * 2)
    job = await client.submit("double", {"n": 21})
    assert job.job is not None
    assert job.job.state is JobState.QUEUED
    assert await job.result() == 42
    assert await history(client, job.id) == [T.SUBMITTED, T.STARTED, T.SUCCEEDED]


async def test_error_of_a_function_fails_the_job(gateway: FakeGateway, client: Client):
    gateway.handle("divide", lambda payload: 1 / payload["n"])
    job = await client.submit("divide", {"n": 0})
    with pytest.raises(JobFailed, match="ZeroDivisionError: division by zero"):
        await job.result()
    assert (await job.retry()).state is JobState.QUEUED
    assert (await job.get()).attempt == 2


async def test_coroutine_function_is_cancelled(gateway: FakeGateway, client: Client):
    async def wait(payload: object) -> None:
        await asyncio.Event().wait()

    gateway.handle("wait", wait)
    job = await client.submit("wait")
    assert (await job.cancel()).cancel_request_time
    with pytest.raises(JobCancelled):
        await job.result()


async def test_coroutine_function_returns_the_result(gateway: FakeGateway, client: Client):
    async def double(payload: dict[str, int]) -> int:
        await asyncio.sleep(0)
        return payload["n"] * 2

    gateway.handle("double", double)
    assert await (await client.submit("double", {"n": 2})).result() == 4


async def test_result_that_is_not_json_fails_the_job(gateway: FakeGateway, client: Client):
    gateway.handle("broken", lambda _: object())
    with pytest.raises(JobFailed, match="NotJson: Object of type object is not JSON serializable"):
        await (await client.submit("broken")).result()


async def test_worker_losses_and_interruptions_requeue(gateway: FakeGateway, client: Client):
    job = await client.submit("manual")
    gateway.start(job.id)
    gateway.interrupt(job.id)
    gateway.start(job.id)
    gateway.lose(job.id)
    gateway.start(job.id)
    gateway.lose(job.id, final=True)
    with pytest.raises(JobFailed, match="WORKER_LOST"):
        await job.result()
    assert (await job.get()).attempt == 3


async def test_deadline_expires_a_waiting_job(gateway: FakeGateway, client: Client):
    job = await client.submit("manual")
    gateway.expire(job.id)
    with pytest.raises(JobFailed, match="DEADLINE_EXCEEDED"):
        await job.result()


async def test_forbidden_transition_is_rejected(gateway: FakeGateway, client: Client):
    job = await client.submit("manual")
    with pytest.raises(StateConflict, match="is QUEUED; it must be RUNNING"):
        gateway.succeed(job.id)
    assert await history(client, job.id) == [T.SUBMITTED]


async def test_rejected_call_is_retried(gateway: FakeGateway, client: Client):
    gateway.refuse(2)
    await client.submit("manual")
    assert [call.method for call in gateway.calls] == ["SubmitJob"] * 3
    gateway.refuse(100)
    async with Client(gateway.target, retries=0) as client_without_retries:
        with pytest.raises(Unavailable, match="postgresql is not available"):
            await client_without_retries.stats()


async def test_cut_stream_is_resumed(gateway: FakeGateway, client: Client):
    job = await client.submit("manual")
    async with job.watch() as watch:
        assert (await anext(watch)).seq == 1
        gateway.cut()
        gateway.start(job.id)
        assert (await anext(watch)).seq == 2
    assert watch.resumes == 1


def test_synchronous_test_drives_jobs():
    with FakeGateway() as gateway, SyncClient(gateway.target) as client:
        gateway.handle("double", lambda payload: payload["n"] * 2)
        assert client.submit("double", {"n": 2}).result() == 4
        job = client.submit("manual")
        gateway.start(job.id)
        gateway.cut()
        gateway.succeed(job.id, "done")
        assert job.result() == "done"
        with pytest.raises(StateConflict):
            gateway.start(job.id)


async def test_event_logged_during_a_response_is_sent_next():
    gateway = FakeGateway()

    def submit() -> str:
        spec = JobSpec(type="manual")
        (job,) = gateway._jobs.submit([spec], "", batch=False, correlation_id="")
        return job.id

    first = submit()
    stream = gateway._job_service.WatchJobs(WatchJobsRequest(cursor="0"), None)
    responses = [await anext(stream)]
    second = submit()
    while len(responses) < 3:
        responses.append(await anext(stream))

    events = [(event.job_id, r.cursor) for r in responses for event in r.events]
    assert events == [(first, "1"), (second, "2")]
    assert [response.mark for response in responses] == [
        WATCH_MARK_UNSPECIFIED,
        WATCH_MARK_UNSPECIFIED,
        WATCH_MARK_CAUGHT_UP,
    ]

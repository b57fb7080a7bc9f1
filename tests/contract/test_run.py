"""`Client.run` returns the result of a job in one call, and streams send the ended job."""

from __future__ import annotations

import asyncio
import json

import pytest

from headrace import Client, JobCancelled, JobFailed, JobState
from headrace.v1 import job_service_pb2 as pb
from headrace.v1.data_pb2 import DATA_ENCODING_JSON
from headrace.v1.job_pb2 import JOB_STATE_SUCCEEDED
from headrace.v1.job_pb2 import JobSpec as Spec
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from support.contract import IDLE, SCRIPTED, Driver
from support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def stored_id(client: Client, name: str) -> str:
    """Wait until the job with this request_id is stored; return its id."""

    async def find() -> str:
        return "".join([job.id async for job in client.list(f'request_id = "{name}"')])

    return await until(find)


async def test_run_returns_the_result(client: Client, driver: Driver, name: str):
    running = asyncio.create_task(client.run(SCRIPTED, {"n": 1}, request_id=name))
    job_id = await stored_id(client, name)
    await driver.start(job_id)
    await driver.succeed(job_id, {"sum": 3})
    assert await running == {"sum": 3}
    # A repeated call returns the result of the same job.
    assert await client.run(SCRIPTED, {"n": 1}, request_id=name) == {"sum": 3}


async def test_run_raises_the_error_of_a_failed_job(client: Client, driver: Driver, name: str):
    running = asyncio.create_task(client.run(SCRIPTED, request_id=name))
    job_id = await stored_id(client, name)
    await driver.start(job_id)
    await driver.fail(job_id, "no such file")
    with pytest.raises(JobFailed) as caught:
        await running
    assert caught.value.job.id == job_id
    assert "no such file" in str(caught.value)


async def test_run_raises_for_a_cancelled_job(client: Client, name: str):
    running = asyncio.create_task(client.run(IDLE, request_id=name))
    await client.cancel(await stored_id(client, name))
    with pytest.raises(JobCancelled):
        await running


@pytest.mark.parametrize(("cancel", "state"), [(False, "QUEUED"), (True, "CANCELLED")])
async def test_cancelled_caller_can_cancel_the_job(
    client: Client, name: str, cancel: bool, state: str
):
    running = asyncio.create_task(client.run(IDLE, request_id=name, cancel=cancel))
    job_id = await stored_id(client, name)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await client.get(job_id)).state is JobState[state]


async def test_run_that_times_out_can_cancel_the_job(client: Client, name: str):
    with pytest.raises(TimeoutError):
        await client.run(IDLE, request_id=name, wait_timeout=1.0, cancel=True)
    job = await client.get(await stored_id(client, name))
    assert job.state is JobState.CANCELLED


async def test_watch_ends_with_the_job_if_requested(
    jobs: JobServiceStub, client: Client, driver: Driver
):
    job = await client.submit(SCRIPTED, {"n": 1})
    await driver.start(job.id)
    await driver.succeed(job.id, [1, 2])
    request = pb.WatchJobRequest(job_id=job.id, include_job=True, data_encoding=DATA_ENCODING_JSON)
    responses = [response async for response in jobs.WatchJob(request)]
    assert responses[-1].ended_job.state == JOB_STATE_SUCCEEDED
    assert json.loads(responses[-1].ended_job.result.json) == [1, 2]
    assert json.loads(responses[-1].ended_job.payload.json) == {"n": 1}
    assert not responses[-1].events
    assert not any(response.HasField("ended_job") for response in responses[:-1])
    # A stream that resumes after the terminal event still ends with the job.
    request.after_seq = responses[-1].ended_job.seq
    resumed = [response async for response in jobs.WatchJob(request)]
    assert [response.HasField("ended_job") for response in resumed][-1]
    assert not any(response.events for response in resumed)
    request.include_job = False
    plain = [response async for response in jobs.WatchJob(request)]
    assert not any(response.HasField("ended_job") for response in plain)


async def test_submit_and_watch_ends_with_the_job(jobs: JobServiceStub, client: Client, name: str):
    request = pb.SubmitAndWatchRequest(job=Spec(type=IDLE), request_id=name, include_job=True)
    stream = jobs.SubmitAndWatch(request)
    responses = []
    async for response in stream:
        responses.append(response)
        if len(responses) == 1:
            await client.cancel(response.job.id)
    assert responses[-1].ended_job.id == responses[0].job.id


async def test_handle_reads_the_result_from_its_stream(client: Client, driver: Driver, name: str):
    job = await client.submit(SCRIPTED, request_id=name)
    result = asyncio.create_task(job.result())
    await driver.start(job.id)
    await driver.succeed(job.id, "done")
    assert await result == "done"
    async with client.watch_job(job.id, include_job=True) as events:
        assert events.ended_job is None
        async for _ in events:
            pass
    assert events.ended_job is not None
    assert events.ended_job.result == "done"

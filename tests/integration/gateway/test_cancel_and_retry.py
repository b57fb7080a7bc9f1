"""CancelJob and RetryJob."""

from __future__ import annotations

from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1.event_pb2 import JobEventType
from headrace.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    Job,
    JobSpec,
)
from headrace.v1.job_service_pb2 import (
    CancelJobRequest,
    ListJobEventsRequest,
    RetryJobRequest,
    SubmitJobRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from support.gateway import FakeWorker, rpc_error


async def submit(jobs: JobServiceStub, **fields: object) -> str:
    return (await jobs.SubmitJob(SubmitJobRequest(job=JobSpec(type="email", **fields)))).job.id


async def cancel(jobs: JobServiceStub, job_id: str) -> Job:
    return (await jobs.CancelJob(CancelJobRequest(job_id=job_id))).job


async def retry(jobs: JobServiceStub, job_id: str) -> Job:
    return (await jobs.RetryJob(RetryJobRequest(job_id=job_id))).job


async def history(jobs: JobServiceStub, job_id: str) -> list[str]:
    events = (await jobs.ListJobEvents(ListJobEventsRequest(job_id=job_id))).events
    return [JobEventType.Name(event.type).removeprefix("JOB_EVENT_TYPE_") for event in events]


@pytest.mark.parametrize("schedule_time", [None, Timestamp(seconds=4_000_000_000)])
async def test_waiting_job_is_cancelled_at_once(
    jobs: JobServiceStub, schedule_time: Timestamp | None
):
    job_id = await submit(jobs, schedule_time=schedule_time)
    job = await cancel(jobs, job_id)
    assert job.id == job_id
    assert job.state == JOB_STATE_CANCELLED
    assert job.HasField("end_time")
    assert await history(jobs, job_id) == ["SUBMITTED", "CANCELLED"]


async def test_cancel_of_running_job_requests_its_cancellation(
    worker: FakeWorker, jobs: JobServiceStub, settings: Settings, database: Database
):
    job_id = await submit(jobs)
    await worker.start_job(job_id)
    bus = WakeBus(settings, database, Topic.CANCELS)
    cancels = bus.subscribe(Topic.CANCELS)
    await bus.start()
    # Each new connection of the bus counts as a wake-up.
    while await cancels.wait(1):
        pass
    job = await cancel(jobs, job_id)
    assert job.state == JOB_STATE_RUNNING
    assert job.HasField("cancel_request_time")
    assert await cancels.wait(10)
    await bus.stop()
    assert await history(jobs, job_id) == ["SUBMITTED", "STARTED", "CANCEL_REQUESTED"]


async def test_events_contain_the_reasons_of_callers(jobs: JobServiceStub):
    job_id = await submit(jobs)
    await jobs.CancelJob(CancelJobRequest(job_id=job_id, reason="wrong recipient"))
    await jobs.RetryJob(RetryJobRequest(job_id=job_id, reason="recipient corrected"))
    events = (await jobs.ListJobEvents(ListJobEventsRequest(job_id=job_id))).events
    assert [event.reason for event in events] == ["", "wrong recipient", "recipient corrected"]
    # Access control is off, so the callers are unknown.
    assert [event.principal for event in events] == ["", "", ""]


async def test_malformed_reason_is_rejected_with_all_violations(jobs: JobServiceStub):
    for request in (CancelJobRequest, RetryJobRequest):
        for reason in ("r" * 501, "two\nlines"):
            call = jobs.CancelJob if request is CancelJobRequest else jobs.RetryJob
            error = await rpc_error(call(request(job_id="x", reason=reason)))
            assert set(error.violations) == {"job_id", "reason"}


async def test_second_cancel_changes_nothing(worker: FakeWorker, jobs: JobServiceStub):
    waiting, running = await submit(jobs), await submit(jobs)
    await worker.start_job(running)
    for job_id in (waiting, running):
        first = await cancel(jobs, job_id)
        assert await cancel(jobs, job_id) == first


async def test_ended_job_cannot_be_cancelled(worker: FakeWorker, jobs: JobServiceStub):
    job_id = await submit(jobs)
    await worker.start_job(job_id)
    await worker.succeed(job_id)
    error = await rpc_error(cancel(jobs, job_id))
    assert (error.code, error.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "STATE_CONFLICT",
    )
    assert error.metadata == {
        "job_id": job_id,
        "state": "SUCCEEDED",
        "allowed": "SCHEDULED, QUEUED, RETRYING, RUNNING",
    }
    (violation,) = error.details["PreconditionFailure"]["violations"]
    assert violation["subject"] == job_id


async def test_failed_job_is_requeued(worker: FakeWorker, jobs: JobServiceStub):
    job_id = await submit(jobs)
    await worker.start_job(job_id)
    await worker.fail(job_id)
    job = await retry(jobs, job_id)
    assert (job.state, job.retries_used, job.attempt) == (JOB_STATE_QUEUED, 0, 1)
    assert not job.HasField("error")
    assert not job.HasField("end_time")
    assert await history(jobs, job_id) == ["SUBMITTED", "STARTED", "FAILED", "REQUEUED"]
    # The job runs again as its next attempt.
    await worker.start_job(job_id, attempt=2)
    await worker.succeed(job_id, attempt=2)


async def test_cancelled_job_is_requeued(jobs: JobServiceStub):
    job_id = await submit(jobs)
    await cancel(jobs, job_id)
    assert (await retry(jobs, job_id)).state == JOB_STATE_QUEUED


async def test_job_in_another_state_cannot_be_requeued(worker: FakeWorker, jobs: JobServiceStub):
    queued, running, succeeded = [await submit(jobs) for _ in range(3)]
    await worker.start_job(running)
    await worker.start_job(succeeded)
    await worker.succeed(succeeded)
    for job_id, state in ((queued, "QUEUED"), (running, "RUNNING"), (succeeded, "SUCCEEDED")):
        error = await rpc_error(retry(jobs, job_id))
        assert (error.code, error.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "STATE_CONFLICT",
        )
        assert error.metadata == {
            "job_id": job_id,
            "state": state,
            "allowed": "FAILED, CANCELLED",
        }


@pytest.mark.parametrize("call", [cancel, retry])
async def test_unknown_job_and_invalid_id_are_rejected(jobs: JobServiceStub, call):
    error = await rpc_error(call(jobs, str(uuid4())))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    error = await rpc_error(call(jobs, "17"))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(error.violations) == {"job_id"}

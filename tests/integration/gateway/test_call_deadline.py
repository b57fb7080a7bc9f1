"""Jobs with the deadline of their call, by the database's clock."""

from __future__ import annotations

from datetime import UTC, timedelta
from uuid import UUID

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1.job_pb2 import Job, JobSpec
from headrace.v1.job_service_pb2 import (
    SUBMIT_OUTCOME_EXISTING,
    BatchSubmitJobsRequest,
    GetJobRequest,
    SubmitAndWatchRequest,
    SubmitJobRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.ids import JobId
from headrace_core.store.sql.database import Database
from support.gateway import rpc_error
from support.jobs import read_job

EMAIL = JobSpec(type="email")
# The call deadline, and the maximum time for the call to arrive, in seconds. gRPC rounds deadlines
# up.
TIMEOUT = 60
MAX_DELAY = 40


def assert_call_deadline(job: Job) -> None:
    time_left = job.deadline.ToDatetime() - job.create_time.ToDatetime()
    assert timedelta(seconds=TIMEOUT - MAX_DELAY) < time_left < timedelta(seconds=TIMEOUT + 5)


async def test_call_deadline_becomes_the_job_deadline(jobs: JobServiceStub, database: Database):
    request = SubmitJobRequest(job=EMAIL, request_id="order-17", use_call_deadline=True)
    job = (await jobs.SubmitJob(request, timeout=TIMEOUT)).job
    assert_call_deadline(job)
    # The submit returned the stored job.
    stored = await read_job(database, JobId(UUID(job.id)))
    assert stored.deadline == job.deadline.ToDatetime(tzinfo=UTC)
    # The deadline is not part of the content, because each repeated call has a different one.
    repeated = await jobs.SubmitJob(request, timeout=10 * TIMEOUT)
    assert (repeated.outcome, repeated.job.id) == (SUBMIT_OUTCOME_EXISTING, job.id)
    assert repeated.job.deadline == job.deadline


async def test_call_deadline_becomes_the_deadline_of_batch_jobs(jobs: JobServiceStub):
    for specs in ([EMAIL, EMAIL], [EMAIL, JobSpec(type="other", priority=1), EMAIL]):
        request = BatchSubmitJobsRequest(
            jobs=specs, use_call_deadline=True, request_id=f"batch of {len(specs)}"
        )
        created = await jobs.BatchSubmitJobs(request, timeout=TIMEOUT)
        for job in created.jobs:
            assert_call_deadline(job)
            stored = (await jobs.GetJob(GetJobRequest(job_id=job.id))).job
            assert stored.deadline == job.deadline
        repeated = await jobs.BatchSubmitJobs(request, timeout=10 * TIMEOUT)
        assert (repeated.outcome, repeated.batch_id) == (SUBMIT_OUTCOME_EXISTING, created.batch_id)


async def test_stream_deadline_becomes_the_job_deadline(jobs: JobServiceStub):
    request = SubmitAndWatchRequest(job=EMAIL, use_call_deadline=True)
    stream = jobs.SubmitAndWatch(request, timeout=TIMEOUT)
    job = (await stream.read()).job
    stream.cancel()
    assert_call_deadline(job)


async def test_call_deadline_in_the_far_future_is_accepted(jobs: JobServiceStub):
    request = SubmitJobRequest(job=EMAIL, use_call_deadline=True)
    job = (await jobs.SubmitJob(request, timeout=3e9)).job
    assert job.deadline.ToDatetime() > job.create_time.ToDatetime()


async def test_unused_call_deadline_sets_no_job_deadline(jobs: JobServiceStub):
    job = (await jobs.SubmitJob(SubmitJobRequest(job=EMAIL), timeout=TIMEOUT)).job
    assert not job.HasField("deadline")


async def test_use_call_deadline_without_deadline_is_invalid(jobs: JobServiceStub):
    for call in (
        jobs.SubmitJob(SubmitJobRequest(job=EMAIL, use_call_deadline=True)),
        jobs.BatchSubmitJobs(BatchSubmitJobsRequest(jobs=[EMAIL], use_call_deadline=True)),
        jobs.SubmitAndWatch(SubmitAndWatchRequest(job=EMAIL, use_call_deadline=True)).read(),
    ):
        error = await rpc_error(call)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert set(error.violations) == {"use_call_deadline"}


async def test_job_deadline_and_use_call_deadline_is_invalid(jobs: JobServiceStub):
    spec_with_deadline = JobSpec(type="email", deadline=Timestamp(seconds=4_000_000_000))
    for call, field in (
        (
            jobs.SubmitJob(
                SubmitJobRequest(job=spec_with_deadline, use_call_deadline=True), timeout=TIMEOUT
            ),
            "job.deadline",
        ),
        (
            jobs.BatchSubmitJobs(
                BatchSubmitJobsRequest(jobs=[EMAIL, spec_with_deadline], use_call_deadline=True),
                timeout=TIMEOUT,
            ),
            "jobs[1].deadline",
        ),
    ):
        error = await rpc_error(call)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert set(error.violations) == {field}

"""BatchSubmitJobs: all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
import pytest
from redis.asyncio import Redis

from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import (
    SUBMIT_OUTCOME_CREATED,
    SUBMIT_OUTCOME_EXISTING,
    SUBMIT_OUTCOME_NO_WORKER,
    SUBMIT_OUTCOME_WOULD_RUN,
    BatchSubmitJobsRequest,
    GetStatsRequest,
    ListJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings
from support.gateway import FakeWorker, rpc_error
from support.queues import queue_of
from support.until import until

NUMBERS = Data(json=b'{"data": [1, 2, 3]}')


def batch(specs: Iterable[JobSpec], **fields: object) -> BatchSubmitJobsRequest:
    return BatchSubmitJobsRequest(jobs=specs, **fields)


def emails(count: int, **fields: object) -> BatchSubmitJobsRequest:
    return batch([JobSpec(type="email", labels={"n": str(n)}) for n in range(count)], **fields)


async def count(jobs: JobServiceStub) -> int:
    return sum(state.jobs for state in (await jobs.GetStats(GetStatsRequest())).states)


async def test_batch_of_a_thousand_jobs_keeps_its_order(jobs: JobServiceStub):
    response = await jobs.BatchSubmitJobs(emails(1000))
    assert response.outcome == SUBMIT_OUTCOME_CREATED
    assert [job.labels["n"] for job in response.jobs] == [str(n) for n in range(1000)]
    assert {job.batch_id for job in response.jobs} == {response.batch_id}
    listed = await jobs.ListJobs(
        ListJobsRequest(filter=f"batch_id = {response.batch_id}", page_size=1000)
    )
    assert [job.id for job in listed.jobs] == [job.id for job in reversed(response.jobs)]


async def test_batch_of_one_job_is_stored(jobs: JobServiceStub):
    response = await jobs.BatchSubmitJobs(emails(1))
    assert len(response.jobs) == 1


async def test_violation_of_one_job_rejects_the_batch(jobs: JobServiceStub):
    specs = [JobSpec(type="email") for _ in range(5)]
    specs[3].priority = 1000
    specs[4].type = ""
    error = await rpc_error(jobs.BatchSubmitJobs(batch(specs)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert set(error.violations) == {"jobs[3].priority", "jobs[4].type"}
    assert await count(jobs) == 0


async def test_invalid_payload_of_one_job_rejects_the_batch(
    worker: FakeWorker, jobs: JobServiceStub
):
    specs = [
        JobSpec(type="square_sum", payload=NUMBERS),
        JobSpec(type="square_sum", payload=Data(json=b'{"data": ["x"]}')),
        JobSpec(type="email"),
    ]
    error = await rpc_error(jobs.BatchSubmitJobs(batch(specs)))
    assert error.reason == "PAYLOAD_INVALID"
    assert error.metadata == {"type": "square_sum"}
    assert set(error.violations) == {"jobs[1].payload.data[0]"}
    assert await count(jobs) == 0


async def test_violations_of_a_batch_are_listed_up_to_a_limit(
    jobs: JobServiceStub,
):
    specs = [JobSpec(type="X" * 200, queue="Y" * 200, priority=1000) for _ in range(1000)]
    error = await rpc_error(jobs.BatchSubmitJobs(batch(specs)))
    assert error.violations["jobs[0].priority"] == "must be -100 to 100"
    assert "more violations" in error.violations[""]


async def test_batch_size_out_of_range_is_rejected(jobs: JobServiceStub):
    for size, reason in ((0, "INVALID_ARGUMENT"), (1001, "LIMIT_EXCEEDED")):
        error = await rpc_error(jobs.BatchSubmitJobs(emails(size)))
        assert error.reason == reason
        assert set(error.violations) == {"jobs"}


async def test_error_names_the_setting_of_the_batch_limit(jobs: JobServiceStub):
    error = await rpc_error(jobs.BatchSubmitJobs(emails(1001)))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.metadata == {
        "limit": "HEADRACE_MAX_BATCH_JOBS",
        "maximum": "1000",
        "actual": "1001",
    }


async def test_same_request_id_and_content_return_the_batch(jobs: JobServiceStub):
    first = await jobs.BatchSubmitJobs(emails(3, request_id="import-1"))
    repeated = await jobs.BatchSubmitJobs(emails(3, request_id="import-1"))
    assert repeated.outcome == SUBMIT_OUTCOME_EXISTING
    assert repeated.batch_id == first.batch_id
    assert list(repeated.jobs) == list(first.jobs)
    assert await count(jobs) == 3


async def test_same_request_id_with_different_content_conflicts(jobs: JobServiceStub):
    first = await jobs.BatchSubmitJobs(emails(3, request_id="import-1"))
    for size in (2, 4):
        error = await rpc_error(jobs.BatchSubmitJobs(emails(size, request_id="import-1")))
        assert (error.code, error.reason) == (
            grpc.StatusCode.ALREADY_EXISTS,
            "REQUEST_ID_CONFLICT",
        )
        assert error.metadata == {"request_id": "import-1", "batch_id": first.batch_id}
    assert await count(jobs) == 3


async def test_concurrent_batches_with_one_key_create_one_batch(jobs: JobServiceStub):
    request = emails(20, request_id="import-1")
    responses = await asyncio.gather(*(jobs.BatchSubmitJobs(request) for _ in range(30)))
    assert len({response.batch_id for response in responses}) == 1
    assert [r.outcome for r in responses].count(SUBMIT_OUTCOME_CREATED) == 1
    assert await count(jobs) == 20


async def test_small_batch_is_handed_off_to_an_idle_pool(
    worker: FakeWorker, jobs: JobServiceStub, redis: Redis
):
    spec = JobSpec(type="square_sum", payload=NUMBERS)
    response = await jobs.BatchSubmitJobs(batch([spec, spec]))

    async def is_delivered() -> bool:
        queued = await redis.zrange(await queue_of(redis, "pool"), 0, -1)
        return [name.decode() for name in queued] == [f"{job.id}:1" for job in response.jobs]

    await until(is_delivered)


async def test_validate_only_stores_nothing(worker: FakeWorker, jobs: JobServiceStub):
    known = JobSpec(type="square_sum", payload=NUMBERS)
    response = await jobs.BatchSubmitJobs(batch([known, known], validate_only=True))
    assert response.outcome == SUBMIT_OUTCOME_WOULD_RUN
    assert [(job.id, job.queue) for job in response.jobs] == [("", "math"), ("", "math")]
    assert response.batch_id == ""
    validated = await jobs.BatchSubmitJobs(batch([known, JobSpec(type="x")], validate_only=True))
    assert validated.outcome == SUBMIT_OUTCOME_NO_WORKER
    assert await count(jobs) == 0


class TestLimits:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_batch_jobs": 2, "max_payload_bytes": 10})

    async def test_batch_beyond_a_smaller_limit_is_rejected(self, jobs: JobServiceStub):
        assert len((await jobs.BatchSubmitJobs(emails(2))).jobs) == 2
        error = await rpc_error(jobs.BatchSubmitJobs(emails(3)))
        assert error.metadata["maximum"] == "2"

    async def test_oversized_payload_names_its_job(self, jobs: JobServiceStub):
        specs = [JobSpec(type="email"), JobSpec(type="email", payload=Data(json=b'"0123456789"'))]
        error = await rpc_error(jobs.BatchSubmitJobs(batch(specs)))
        assert error.reason == "LIMIT_EXCEEDED"
        assert set(error.violations) == {"jobs[1].payload"}
        assert await count(jobs) == 0

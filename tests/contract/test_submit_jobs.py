"""SubmitJobs: many independent submits in one message, by stubs and by the client."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from headrace import Client, InvalidRequest, RequestIdConflict, SubmitOutcome
from headrace.v1 import job_service_pb2 as pb
from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JobSpec as Spec
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from support.contract import IDLE
from support.gateway import RpcError, read_status, rpc_error

pytestmark = pytest.mark.asyncio(loop_scope="module")


def entry(job_type: str = IDLE, payload: bytes = b"{}", **options: object) -> pb.SubmitJobsEntry:
    spec = Spec(type=job_type, payload=Data(json=payload))
    return pb.SubmitJobsEntry(request=pb.SubmitJobRequest(job=spec, **options))  # type: ignore[arg-type]


def error_of(result: pb.SubmitJobsResult) -> RpcError:
    return read_status(result.error.SerializeToString())


async def test_each_entry_has_its_own_result(jobs: JobServiceStub, name: str):
    first = await jobs.SubmitJob(entry(payload=b'{"n":1}', request_id=name).request)
    response = await jobs.SubmitJobs(
        pb.SubmitJobsRequest(
            entries=[
                entry(),
                entry("Bad Type"),
                entry(payload=b'{"n":1}', request_id=name),
                entry(payload=b'{"n":2}', request_id=name),
                pb.SubmitJobsEntry(),
                entry(validate_only=True),
            ]
        )
    )
    created, invalid, existing, conflict, empty, validated = response.results
    assert not response.reduced
    assert created.response.outcome == pb.SUBMIT_OUTCOME_CREATED
    assert created.response.job.id
    error = error_of(invalid)
    assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert error.violations.keys() == {"job.type"}
    assert existing.response.outcome == pb.SUBMIT_OUTCOME_EXISTING
    assert existing.response.job.id == first.job.id
    error = error_of(conflict)
    assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "REQUEST_ID_CONFLICT")
    assert error_of(empty).code is StatusCode.INVALID_ARGUMENT
    assert validated.response.outcome in {
        pb.SUBMIT_OUTCOME_WOULD_RUN,
        pb.SUBMIT_OUTCOME_NO_WORKER,
    }
    assert not validated.response.job.id


async def test_entries_with_the_same_request_id_return_one_job(jobs: JobServiceStub, name: str):
    request = pb.SubmitJobsRequest(entries=[entry(request_id=name) for _ in range(3)])
    results = (await jobs.SubmitJobs(request)).results
    assert len({result.response.job.id for result in results}) == 1
    outcomes = sorted(result.response.outcome for result in results)
    assert outcomes == [
        pb.SUBMIT_OUTCOME_CREATED,
        pb.SUBMIT_OUTCOME_EXISTING,
        pb.SUBMIT_OUTCOME_EXISTING,
    ]


@pytest.mark.parametrize("count", [0, 257])
async def test_number_of_entries_is_limited(jobs: JobServiceStub, count: int):
    request = pb.SubmitJobsRequest(entries=[entry()] * count)
    error = await rpc_error(jobs.SubmitJobs(request))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert error.violations.keys() == {"entries"}


async def test_as_many_entries_as_allowed_are_stored(jobs: JobServiceStub):
    response = await jobs.SubmitJobs(pb.SubmitJobsRequest(entries=[entry()] * 256))
    assert len({result.response.job.id for result in response.results}) == 256


async def test_timeout_of_an_entry_becomes_the_deadline_of_its_job(jobs: JobServiceStub):
    before = datetime.now(UTC)
    timed = entry(use_call_deadline=True)
    timed.timeout.CopyFrom(Duration(seconds=300))
    untimed = entry(use_call_deadline=True)
    response = await jobs.SubmitJobs(pb.SubmitJobsRequest(entries=[timed, untimed]))
    job = (await jobs.GetJob(pb.GetJobRequest(job_id=response.results[0].response.job.id))).job
    after = datetime.now(UTC)
    deadline = job.deadline.ToDatetime(UTC)
    margin = timedelta(seconds=5)
    assert before - margin < deadline - timedelta(seconds=300) < after + margin
    # The call has no deadline.
    assert error_of(response.results[1]).violations.keys() == {"use_call_deadline"}


async def test_correlation_id_of_an_entry_belongs_to_its_job(jobs: JobServiceStub):
    own, plain = entry(), entry()
    own.correlation_id = "own-id"
    response = await jobs.SubmitJobs(
        pb.SubmitJobsRequest(entries=[own, plain]), metadata=(("x-request-id", "call-id"),)
    )
    stored = [
        (await jobs.GetJob(pb.GetJobRequest(job_id=result.response.job.id))).job.correlation_id
        for result in response.results
    ]
    assert stored == ["own-id", "call-id"]


async def test_concurrent_submits_of_the_client_have_their_own_results(client: Client, name: str):
    existing = await client.submit(IDLE, {"n": 1}, request_id=name)
    good, bad, again, conflict, correlated = await asyncio.gather(
        client.submit(IDLE, {"n": 2}, labels={"a": "b"}),
        client.submit("Bad Type"),
        client.submit(IDLE, {"n": 1}, request_id=name),
        client.submit(IDLE, {"n": 3}, request_id=name),
        client.submit(IDLE, correlation_id="my-id"),
        return_exceptions=True,
    )
    assert not isinstance(good, BaseException)
    job = await good.get()
    assert (job.payload, job.labels) == ({"n": 2}, {"a": "b"})
    assert isinstance(bad, InvalidRequest)
    assert [violation.field for violation in bad.violations] == ["job.type"]
    assert not isinstance(again, BaseException)
    assert (again.id, again.outcome) == (existing.id, SubmitOutcome.EXISTING)
    assert isinstance(conflict, RequestIdConflict)
    assert conflict.job_id == existing.id
    assert not isinstance(correlated, BaseException)
    assert (await correlated.get()).correlation_id == "my-id"


async def test_hundreds_of_concurrent_submits_are_all_stored(client: Client, name: str):
    handles = await asyncio.gather(
        *(client.submit(IDLE, {"n": n}, labels={"run": name}) for n in range(700))
    )
    assert len({handle.id for handle in handles}) == 700
    listed = [job.id async for job in client.list(f'labels.run = "{name}"')]
    assert set(listed) == {handle.id for handle in handles}
    jobs = await asyncio.gather(*(handle.get() for handle in handles[::100]))
    assert [job.payload for job in jobs] == [{"n": n} for n in range(0, 700, 100)]


async def test_cancelled_submit_affects_no_other(client: Client):
    submits = [asyncio.create_task(client.submit(IDLE, {"n": n})) for n in range(4)]
    await asyncio.sleep(0)
    submits[1].cancel()
    results = await asyncio.gather(*submits, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert all(results[n].id for n in (0, 2, 3))  # type: ignore[union-attr]


async def test_request_id_of_each_submit_is_its_own(client: Client):
    keys = [str(uuid4()) for _ in range(8)]
    first = await asyncio.gather(*(client.submit(IDLE, request_id=key) for key in keys))
    second = await asyncio.gather(*(client.submit(IDLE, request_id=key) for key in keys))
    assert [handle.id for handle in first] == [handle.id for handle in second]
    assert {handle.outcome for handle in second} == {SubmitOutcome.EXISTING}

"""GetJob, ListJobEvents and ListJobOutput, for jobs in every state."""

from __future__ import annotations

from uuid import uuid4

import grpc
import pytest
from google.protobuf import json_format

from headrace.v1.data_pb2 import DATA_ENCODING_JSON, Data
from headrace.v1.event_pb2 import JobEventType
from headrace.v1.job_pb2 import (
    JOB_STATE_FAILED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    JOB_VIEW_BASIC,
    JOB_VIEW_FULL,
    JobSpec,
)
from headrace.v1.job_service_pb2 import (
    BatchSubmitJobsRequest,
    GetJobRequest,
    ListJobEventsRequest,
    ListJobOutputRequest,
    ListJobsRequest,
    SubmitJobRequest,
    WatchJobRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.job import Progress
from support.gateway import STACK_TRACE, FakeWorker, rpc_error

NUMBERS = b'{"data": [1, 2, 3]}'


async def submit_job(jobs: JobServiceStub) -> str:
    request = SubmitJobRequest(job=JobSpec(type="square_sum", payload=Data(json=NUMBERS)))
    return (await jobs.SubmitJob(request)).job.id


@pytest.fixture
async def succeeded_job(worker: FakeWorker, jobs: JobServiceStub) -> str:
    """A succeeded job with progress and output."""
    job_id = await submit_job(jobs)
    await worker.start_job(job_id)
    await worker.report(
        job_id, progress=Progress(fraction=0.5, message="half", counters='{"rows": 2}')
    )
    await worker.report(job_id, output='{"token": "a"}')
    await worker.report(job_id, output='"b"')
    await worker.succeed(job_id, result="[12345678901234567890]")
    return job_id


async def test_get_job_without_view_returns_the_full_job(
    succeeded_job: str, worker: FakeWorker, jobs: JobServiceStub
):
    job = (await jobs.GetJob(GetJobRequest(job_id=succeeded_job))).job
    assert job.state == JOB_STATE_SUCCEEDED
    shown = json_format.MessageToDict(job)
    assert shown["payload"] == {"value": {"data": [1.0, 2.0, 3.0]}}
    assert shown["result"] == {"value": ["12345678901234567890"]}
    assert shown["progress"] == {
        "fraction": 0.5,
        "message": "half",
        "counters": {"value": {"rows": 2.0}},
    }
    assert (job.attempt, job.seq, job.worker_id) == (1, 6, str(worker.id))
    for name in ("create_time", "queue_time", "start_time", "end_time", "update_time"):
        assert job.HasField(name)


async def test_full_view_has_exact_documents(succeeded_job: str, jobs: JobServiceStub):
    request = GetJobRequest(
        job_id=succeeded_job, view=JOB_VIEW_FULL, data_encoding=DATA_ENCODING_JSON
    )
    job = (await jobs.GetJob(request)).job
    assert job.payload.json == NUMBERS
    assert job.result.json == b"[12345678901234567890]"


async def test_basic_view_has_no_documents(succeeded_job: str, jobs: JobServiceStub):
    job = (await jobs.GetJob(GetJobRequest(job_id=succeeded_job, view=JOB_VIEW_BASIC))).job
    assert not job.HasField("payload")
    assert not job.HasField("result")
    assert job.progress.fraction == 0.5


async def test_running_job_contains_its_attempt(worker: FakeWorker, jobs: JobServiceStub):
    job_id = await submit_job(jobs)
    await worker.start_job(job_id)
    job = (await jobs.GetJob(GetJobRequest(job_id=job_id))).job
    assert job.state == JOB_STATE_RUNNING
    assert not job.HasField("end_time")


async def test_failed_job_contains_its_error(worker: FakeWorker, jobs: JobServiceStub):
    job_id = await submit_job(jobs)
    await worker.start_job(job_id)
    await worker.fail(job_id)
    job = (await jobs.GetJob(GetJobRequest(job_id=job_id))).job
    assert job.state == JOB_STATE_FAILED
    assert (job.error.type, job.error.message, job.error.retryable) == (
        "ValueError",
        "it broke",
        False,
    )
    assert not job.HasField("result")


async def test_only_the_full_view_contains_the_stack_trace(
    worker: FakeWorker, jobs: JobServiceStub
):
    job_id = await submit_job(jobs)
    await worker.start_job(job_id)
    await worker.fail(job_id)
    shown = {
        (call, view): job.error.stack_trace
        for view in (JOB_VIEW_BASIC, JOB_VIEW_FULL)
        for call, job in (
            ("get", (await jobs.GetJob(GetJobRequest(job_id=job_id, view=view))).job),
            ("list", (await jobs.ListJobs(ListJobsRequest(view=view))).jobs[0]),
        )
    }
    assert shown == {
        ("get", JOB_VIEW_BASIC): "",
        ("list", JOB_VIEW_BASIC): "",
        ("get", JOB_VIEW_FULL): STACK_TRACE,
        ("list", JOB_VIEW_FULL): STACK_TRACE,
    }
    events = (await jobs.ListJobEvents(ListJobEventsRequest(job_id=job_id))).events
    assert events[-1].error.type == "ValueError"
    assert not events[-1].error.stack_trace
    responses = [
        event
        async for response in jobs.WatchJob(WatchJobRequest(job_id=job_id))
        for event in response.events
    ]
    assert responses[-1].error == events[-1].error


async def test_job_keeps_the_correlation_id_of_its_submit(jobs: JobServiceStub):
    spec = JobSpec(type="square_sum", payload=Data(json=NUMBERS))
    metadata = (("x-request-id", "trace-17"),)
    single = SubmitJobRequest(job=spec, request_id="key")
    submitted = (await jobs.SubmitJob(single, metadata=metadata)).job
    # The second call has another correlation id, and returns the job with the first one.
    repeated = (await jobs.SubmitJob(single, metadata=(("x-request-id", "trace-18"),))).job
    batch = await jobs.BatchSubmitJobs(
        BatchSubmitJobsRequest(jobs=[spec, JobSpec(type="other")]), metadata=metadata
    )
    for job in (submitted, repeated, *batch.jobs):
        assert job.correlation_id == "trace-17"
        stored = (await jobs.GetJob(GetJobRequest(job_id=job.id, view=JOB_VIEW_BASIC))).job
        assert stored.correlation_id == "trace-17"
    # The gateway replaces an id that is too long.
    call = jobs.SubmitJob(SubmitJobRequest(job=spec), metadata=(("x-request-id", "x" * 129),))
    job = (await call).job
    assert job.correlation_id == dict(await call.trailing_metadata())["x-request-id"]
    assert len(job.correlation_id) == 36


async def test_output_is_paged(succeeded_job: str, jobs: JobServiceStub):
    pieces = []
    after_seq = 0
    while True:
        request = ListJobOutputRequest(
            job_id=succeeded_job, after_seq=after_seq, page_size=1, data_encoding=DATA_ENCODING_JSON
        )
        response = await jobs.ListJobOutput(request)
        (piece,) = response.pieces
        assert piece.HasField("output_time")
        pieces.append((piece.seq, piece.attempt, piece.output.json))
        after_seq = response.next_after_seq
        if not after_seq:
            break
    assert pieces == [(4, 1, b'{"token": "a"}'), (5, 1, b'"b"')]
    full_output = await jobs.ListJobOutput(ListJobOutputRequest(job_id=succeeded_job))
    assert [json_format.MessageToDict(piece.output) for piece in full_output.pieces] == [
        {"value": {"token": "a"}},
        {"value": "b"},
    ]
    assert full_output.next_after_seq == 0


async def test_events_are_numbered_without_a_gap(succeeded_job: str, jobs: JobServiceStub):
    response = await jobs.ListJobEvents(ListJobEventsRequest(job_id=succeeded_job))
    assert [
        (event.seq, JobEventType.Name(event.type).removeprefix("JOB_EVENT_TYPE_"))
        for event in response.events
    ] == [
        (1, "SUBMITTED"),
        (2, "STARTED"),
        (3, "PROGRESSED"),
        (4, "OUTPUT"),
        (5, "OUTPUT"),
        (6, "SUCCEEDED"),
    ]
    assert response.next_after_seq == 0
    submitted_event, started, progressed, output, _, ended = response.events
    assert submitted_event.attempt == 0
    assert started.worker_id
    assert progressed.progress.fraction == 0.5
    assert json_format.MessageToDict(output.output) == {"value": {"token": "a"}}
    assert ended.state == JOB_STATE_SUCCEEDED
    assert {event.job_type for event in response.events} == {"square_sum"}
    assert {event.queue for event in response.events} == {"math"}


async def test_events_are_paged(succeeded_job: str, jobs: JobServiceStub):
    pages = []
    after_seq = 0
    while True:
        request = ListJobEventsRequest(job_id=succeeded_job, after_seq=after_seq, page_size=2)
        response = await jobs.ListJobEvents(request)
        pages.append([event.seq for event in response.events])
        after_seq = response.next_after_seq
        if not after_seq:
            break
    assert pages == [[1, 2], [3, 4], [5, 6]]


async def test_large_output_events_fit_a_default_client(worker: FakeWorker, jobs: JobServiceStub):
    job_id = await submit_job(jobs)
    await worker.start_job(job_id)
    for _ in range(100):
        await worker.report(job_id, output='"' + "x" * 60_000 + '"')
    seen = []
    after_seq = 0
    while True:
        request = ListJobEventsRequest(job_id=job_id, after_seq=after_seq, page_size=1000)
        response = await jobs.ListJobEvents(request)
        seen += [event.seq for event in response.events]
        after_seq = response.next_after_seq
        if not after_seq:
            break
        assert 1024 * 1024 < response.ByteSize() < 4 * 1024 * 1024
    assert seen == list(range(1, 103))


async def test_page_after_the_last_event_is_empty(succeeded_job: str, jobs: JobServiceStub):
    for after_seq in (6, 7, 2**63 - 1):
        request = ListJobEventsRequest(job_id=succeeded_job, after_seq=after_seq)
        response = await jobs.ListJobEvents(request)
        assert not response.events
        assert response.next_after_seq == 0


async def test_unknown_job_is_not_found(jobs: JobServiceStub):
    job_id = str(uuid4())
    for call in (
        jobs.GetJob(GetJobRequest(job_id=job_id)),
        jobs.ListJobEvents(ListJobEventsRequest(job_id=job_id)),
    ):
        error = await rpc_error(call)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        assert error.metadata == {"job_id": job_id}
        assert error.details["ResourceInfo"]["resourceName"] == job_id


async def test_invalid_get_job_lists_all_violations(jobs: JobServiceStub):
    error = await rpc_error(jobs.GetJob(GetJobRequest(job_id="17", view=99, data_encoding=99)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert set(error.violations) == {"job_id", "view", "data_encoding"}


async def test_invalid_list_events_lists_all_violations(jobs: JobServiceStub):
    request = ListJobEventsRequest(job_id="", after_seq=-1, page_size=-1, data_encoding=99)
    error = await rpc_error(jobs.ListJobEvents(request))
    assert set(error.violations) == {"job_id", "after_seq", "page_size", "data_encoding"}

"""ListJobs: filters, pages, views."""

from __future__ import annotations

import grpc

from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JOB_VIEW_FULL, Job, JobSpec
from headrace.v1.job_service_pb2 import (
    BatchSubmitJobsRequest,
    CancelJobRequest,
    ListJobsRequest,
    SubmitJobRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from support.gateway import FakeWorker, rpc_error


async def submit(jobs: JobServiceStub, job_type: str = "email", **fields: object) -> Job:
    request_id = str(fields.pop("request_id", ""))
    request = SubmitJobRequest(job=JobSpec(type=job_type, **fields), request_id=request_id)
    return (await jobs.SubmitJob(request)).job


async def submit_many(jobs: JobServiceStub, count: int, **fields: object) -> list[str]:
    """Submit jobs; return their ids, newest first."""
    specs = [JobSpec(**{"type": "email", **fields}) for _ in range(count)]
    response = await jobs.BatchSubmitJobs(BatchSubmitJobsRequest(jobs=specs))
    return [job.id for job in reversed(response.jobs)]


async def list_types(jobs: JobServiceStub, text: str) -> set[str]:
    response = await jobs.ListJobs(ListJobsRequest(filter=text, page_size=1000))
    assert response.next_page_token == ""
    return {job.id for job in response.jobs}


async def read_pages(jobs: JobServiceStub, **fields: object) -> list[list[Job]]:
    request = ListJobsRequest(**fields)
    pages = []
    while True:
        response = await jobs.ListJobs(request)
        pages.append(list(response.jobs))
        request.page_token = response.next_page_token
        if not request.page_token:
            return pages


async def test_list_without_jobs_is_empty(jobs: JobServiceStub):
    response = await jobs.ListJobs(ListJobsRequest())
    assert not response.jobs
    assert response.next_page_token == ""


async def test_newest_job_is_listed_first(jobs: JobServiceStub):
    ids = [(await submit(jobs)).id for _ in range(3)]
    response = await jobs.ListJobs(ListJobsRequest())
    assert [job.id for job in response.jobs] == ids[::-1]


async def test_only_the_last_page_has_no_token(jobs: JobServiceStub):
    ids = await submit_many(jobs, 25)
    pages = await read_pages(jobs, page_size=10)
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [job.id for page in pages for job in page] == ids
    # A full last page has no token either.
    assert [len(page) for page in await read_pages(jobs, page_size=5)] == [5] * 5


async def test_page_size_has_a_default_and_a_maximum(jobs: JobServiceStub):
    await submit_many(jobs, 600)
    await submit_many(jobs, 600)
    assert [len(page) for page in await read_pages(jobs)] == [100] * 12
    assert [len(page) for page in await read_pages(jobs, page_size=5000)] == [1000, 200]


async def test_pages_are_stable_while_jobs_arrive(jobs: JobServiceStub):
    ids = await submit_many(jobs, 30)
    request = ListJobsRequest(page_size=7)
    seen = []
    while True:
        response = await jobs.ListJobs(request)
        seen += [job.id for job in response.jobs]
        request.page_token = response.next_page_token
        if not request.page_token:
            break
        await submit_many(jobs, 10)
    assert seen == ids


async def test_token_for_a_different_filter_is_invalid(jobs: JobServiceStub):
    await submit_many(jobs, 5)
    first = await jobs.ListJobs(ListJobsRequest(page_size=2, filter="type = email"))
    for text in ("", "type = other", "type=email"):
        request = ListJobsRequest(page_token=first.next_page_token, filter=text)
        error = await rpc_error(jobs.ListJobs(request))
        assert (error.code, error.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "PAGE_TOKEN_INVALID",
        )
        assert set(error.violations) == {"page_token"}
    # The size and the view may differ between pages.
    request = ListJobsRequest(
        page_token=first.next_page_token, filter="type = email", page_size=3, view=JOB_VIEW_FULL
    )
    assert len((await jobs.ListJobs(request)).jobs) == 3


async def test_forged_token_is_invalid(jobs: JobServiceStub):
    for token in ("x", "AAAA", "é", "A" * 5000):
        error = await rpc_error(jobs.ListJobs(ListJobsRequest(page_token=token)))
        assert error.reason == "PAGE_TOKEN_INVALID"


async def test_invalid_list_request_lists_all_violations(jobs: JobServiceStub):
    request = ListJobsRequest(page_size=-1, filter="nope = 1", view=99, data_encoding=99)
    error = await rpc_error(jobs.ListJobs(request))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert set(error.violations) == {"page_size", "filter", "view", "data_encoding"}
    assert error.violations["filter"].startswith(
        "at character 1: unknown field 'nope'; use one of state, type, queue"
    )


async def test_filter_finds_matching_jobs(worker: FakeWorker, jobs: JobServiceStub):
    a = await submit(jobs, "email", queue="mail", priority=5, labels={"team": "ml", "x.y": "1"})
    b = await submit(jobs, "report", priority=-5, labels={"team": "web"}, request_id="order 17")
    c = await submit(jobs, "email", labels={"empty": ""})
    await jobs.CancelJob(CancelJobRequest(job_id=c.id))
    await worker.start_job(b.id)
    everything = {a.id, b.id, c.id}
    for text, expected in {
        "": everything,
        "state = QUEUED": {a.id},
        "state != QUEUED": {b.id, c.id},
        "(state = CANCELLED OR state = RUNNING)": {b.id, c.id},
        "type = email": {a.id, c.id},
        "type != email": {b.id},
        "type = email AND state = CANCELLED": {c.id},
        "queue = mail": {a.id},
        "queue != mail": {b.id, c.id},
        'request_id = "order 17"': {b.id},
        'request_id != "order 17"': {a.id, c.id},
        f"id = {a.id}": {a.id},
        f"(id = {a.id} OR id = {b.id})": {a.id, b.id},
        f"batch_id = {a.id}": set(),
        f"batch_id != {a.id}": everything,
        f"worker_id = {worker.id}": {b.id},
        f"worker_id != {worker.id}": {a.id, c.id},
        "priority = 5": {a.id},
        "priority != 5": {b.id, c.id},
        "priority >= 0": {a.id, c.id},
        "priority < 0": {b.id},
        "priority <= 32767": everything,
        "attempt > 0": {b.id},
        "attempt < 2147483647": everything,
        "labels.team = ml": {a.id},
        "labels.team != ml": {b.id, c.id},
        "labels.team:*": {a.id, b.id},
        'labels.empty = ""': {c.id},
        "labels.x.y = 1": {a.id},
        "labels.unused:*": set(),
        '(labels.team = ml OR labels.team = "web")': {a.id, b.id},
        'create_time > "2026-01-01T00:00:00Z"': everything,
        'create_time < "2026-01-01T00:00:00+14:00"': set(),
        'create_time > "9999-12-31T23:59:59Z"': set(),
        'start_time > "2026-01-01T00:00:00Z"': {b.id},
        'end_time >= "2026-01-01T00:00:00Z"': {c.id},
        'schedule_time <= "9999-01-01T00:00:00Z"': everything,
        'labels.team = "\'; DROP TABLE jobs; --"': set(),
    }.items():
        assert await list_types(jobs, text) == expected, text


_OPERATORS = {
    **dict.fromkeys(("state", "type", "queue", "request_id"), ("=", "!=")),
    **dict.fromkeys(("batch_id", "id", "worker_id"), ("=", "!=")),
    **dict.fromkeys(("priority", "attempt"), ("=", "!=", "<", "<=", ">", ">=")),
    **dict.fromkeys(
        ("create_time", "schedule_time", "start_time", "end_time"), ("<", "<=", ">", ">=")
    ),
    "labels.team": ("=", "!=", ":"),
}
_VALUES = {
    "state": "QUEUED",
    **dict.fromkeys(("batch_id", "id", "worker_id"), "0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15"),
    **dict.fromkeys(("priority", "attempt"), "-32768"),
    **dict.fromkeys(
        ("create_time", "schedule_time", "start_time", "end_time"), '"0001-01-01T00:00:00Z"'
    ),
}


async def test_every_field_accepts_all_its_operators(jobs: JobServiceStub):
    await submit(jobs, labels={"team": "ml"})
    for field, operators in _OPERATORS.items():
        for operator in operators:
            value = "*" if operator == ":" else _VALUES.get(field, "x")
            await list_types(jobs, f"{field} {operator} {value}")


async def test_list_has_documents_only_in_the_full_view(worker: FakeWorker, jobs: JobServiceStub):
    job = await submit(jobs, "square_sum", payload=Data(json=b'{"data": []}'))
    await worker.start_job(job.id)
    await worker.report(job.id, output='"x"')
    await worker.succeed(job.id, result="0")
    (basic,) = (await jobs.ListJobs(ListJobsRequest())).jobs
    assert not basic.HasField("payload")
    assert not basic.HasField("result")
    (full,) = (await jobs.ListJobs(ListJobsRequest(view=JOB_VIEW_FULL))).jobs
    assert "data" in full.payload.value.struct_value.fields
    assert full.result.value.number_value == 0


async def test_pages_of_large_jobs_fit_a_default_client(
    jobs: JobServiceStub,
):
    payload = Data(json=b"[" + b"1," * 99_999 + b"1]")
    ids = []
    for _ in range(3):
        ids = await submit_many(jobs, 4, payload=payload) + ids
    pages = await read_pages(jobs, page_size=1000, view=JOB_VIEW_FULL)
    assert [job.id for page in pages for job in page] == ids
    assert len(pages) > 2

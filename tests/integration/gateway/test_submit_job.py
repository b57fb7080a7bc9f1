"""SubmitJob: validation, idempotency, limits."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace

import grpc
import pytest
from google.protobuf import json_format, struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from headrace.v1.data_pb2 import DATA_ENCODING_JSON, Data
from headrace.v1.job_pb2 import (
    JOB_STATE_QUEUED,
    JOB_STATE_SCHEDULED,
    JobSpec,
    RetryPolicy,
)
from headrace.v1.job_service_pb2 import (
    SUBMIT_OUTCOME_CREATED,
    SUBMIT_OUTCOME_EXISTING,
    SUBMIT_OUTCOME_NO_WORKER,
    SUBMIT_OUTCOME_WOULD_RUN,
    BatchSubmitJobsRequest,
    GetJobRequest,
    GetStatsRequest,
    ListJobsRequest,
    SubmitAndWatchRequest,
    SubmitJobRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain import job as domain
from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.submission import NewJob, fingerprint
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from support.gateway import SQUARE_SUM, FakeWorker, rpc_error

NUMBERS = Data(json=b'{"data": [1, 2, 3]}')


def submit(job_type: str = "email", request_id: str = "", **spec: object) -> SubmitJobRequest:
    return SubmitJobRequest(job=JobSpec(type=job_type, **spec), request_id=request_id)


def validate(job_type: str, **spec: object) -> SubmitJobRequest:
    return SubmitJobRequest(job=JobSpec(type=job_type, **spec), validate_only=True)


async def count(jobs: JobServiceStub) -> int:
    return sum(state.jobs for state in (await jobs.GetStats(GetStatsRequest())).states)


async def test_job_with_every_field_is_stored(jobs: JobServiceStub):
    spec = JobSpec(
        type="email",
        queue="mail",
        payload=Data(json=b'{"to":  "a@b.c", "n": 12345678901234567890}'),
        priority=7,
        labels={"team": "ml", "run": "2026-11"},
        timeout=Duration(seconds=30),
        deadline=Timestamp(seconds=4_000_000_000),
        retry_policy=RetryPolicy(
            max_attempts=5,
            initial_backoff=Duration(seconds=2),
            jitter=0.5,
            non_retryable_error_types=["ValueError", "TIMEOUT"],
        ),
    )
    response = await jobs.SubmitJob(SubmitJobRequest(job=spec, request_id="order-17"))
    assert response.outcome == SUBMIT_OUTCOME_CREATED
    assert not response.job.HasField("payload")

    request = GetJobRequest(job_id=response.job.id, data_encoding=DATA_ENCODING_JSON)
    job = (await jobs.GetJob(request)).job
    assert job.payload == spec.payload
    assert job.request_id == "order-17"
    assert job.state == JOB_STATE_QUEUED
    assert (job.tenant, job.seq, job.attempt) == ("default", 1, 0)
    for name in ("type", "queue", "priority", "timeout", "deadline", "retry_policy"):
        assert getattr(job, name) == getattr(spec, name)
    assert dict(job.labels) == dict(spec.labels)
    assert job.create_time == job.schedule_time == job.queue_time == job.update_time
    # The submit returned the stored job.
    job.ClearField("payload")
    assert response.job == job


async def test_job_with_only_a_type_has_defaults(jobs: JobServiceStub):
    job = (await jobs.SubmitJob(submit("email"))).job
    stored = (await jobs.GetJob(GetJobRequest(job_id=job.id))).job
    assert json_format.MessageToDict(stored.payload) == {"value": {}}
    assert (stored.queue, stored.priority) == ("default", 0)


EXACT_PAYLOADS = [
    "null",
    '"\\u0000"',
    '"\\ud83d\\ude00 😀"',
    "-0",
    "1" + "0" * 400,
    "1e308",
    '{"a":1,"a":2}',
    " [ ] ",
    "[" * 30 + "]" * 30,
    json.dumps("\u2028" * 1000),
]


async def test_json_payload_is_returned_exactly(jobs: JobServiceStub):
    for document in EXACT_PAYLOADS:
        job = (await jobs.SubmitJob(submit(payload=Data(json=document.encode())))).job
        request = GetJobRequest(job_id=job.id, data_encoding=DATA_ENCODING_JSON)
        assert (await jobs.GetJob(request)).job.payload.json.decode() == document


async def test_value_payload_is_returned_as_a_value(jobs: JobServiceStub):
    content = {"a": [1.0, None, True, "x\u0000"], "b": {"c": 0.5}}
    value = json_format.ParseDict(content, struct_pb2.Value())
    job = (await jobs.SubmitJob(submit(payload=Data(value=value)))).job
    assert (await jobs.GetJob(GetJobRequest(job_id=job.id))).job.payload.value == value


async def test_job_with_future_time_is_scheduled(jobs: JobServiceStub):
    time = Timestamp(seconds=4_000_000_000)
    job = (await jobs.SubmitJob(submit(schedule_time=time))).job
    assert job.state == JOB_STATE_SCHEDULED
    assert job.schedule_time == time
    assert not job.HasField("queue_time")


async def test_earliest_and_latest_times_are_stored(jobs: JobServiceStub):
    job = (await jobs.SubmitJob(submit(schedule_time=Timestamp()))).job
    # A time in the past means now.
    assert job.state == JOB_STATE_QUEUED
    assert job.schedule_time == job.create_time
    last = Timestamp(seconds=253_402_214_399, nanos=999_999_999)
    job = (await jobs.SubmitJob(submit(schedule_time=last))).job
    assert job.state == JOB_STATE_SCHEDULED
    stored = Timestamp(seconds=253_402_214_399, nanos=999_999_000)
    assert job.schedule_time == stored
    job = (await jobs.SubmitJob(submit(deadline=last))).job
    listed = (await jobs.ListJobs(ListJobsRequest(filter=f"id = {job.id}"))).jobs
    assert listed[0].deadline == stored


@pytest.mark.parametrize("field", ["schedule_time", "deadline"])
@pytest.mark.parametrize(
    "time",
    [
        Timestamp(seconds=253_402_300_799, nanos=999_999_999),
        Timestamp(seconds=253_402_300_799, nanos=999_999_000),
        Timestamp(seconds=-62_135_596_800),
    ],
)
async def test_time_outside_the_supported_range_is_invalid(
    jobs: JobServiceStub, field: str, time: Timestamp
):
    error = await rpc_error(jobs.SubmitJob(submit(**{field: time})))
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    assert set(error.violations) == {f"job.{field}"}
    assert not (await jobs.ListJobs(ListJobsRequest())).jobs


async def test_queue_comes_from_job_then_handler_then_default(
    worker: FakeWorker, jobs: JobServiceStub
):
    explicit = (await jobs.SubmitJob(submit("square_sum", payload=NUMBERS, queue="mine"))).job
    handlers = (await jobs.SubmitJob(submit("square_sum", payload=NUMBERS))).job
    neither = (await jobs.SubmitJob(submit("email"))).job
    assert [explicit.queue, handlers.queue, neither.queue] == ["mine", "math", "default"]


async def test_all_violations_are_listed_and_nothing_is_stored(
    worker: FakeWorker, jobs: JobServiceStub
):
    request = SubmitJobRequest(
        job=JobSpec(
            type="square_sum",
            queue="No Queue",
            payload=Data(json=b'{"data": [1, "x"]}'),
            priority=101,
            labels={"Bad Key": "x", "team": "\0"},
            timeout=Duration(seconds=-1),
            retry_policy=RetryPolicy(jitter=2.0),
        ),
        request_id="x" * 129,
        data_encoding=99,
    )
    error = await rpc_error(jobs.SubmitJob(request))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert set(error.violations) == {
        "job.queue",
        "job.priority",
        'job.labels["Bad Key"]',
        'job.labels["team"]',
        "job.timeout",
        "job.retry_policy.jitter",
        "job.payload.data[1]",
        "request_id",
        "data_encoding",
    }
    assert await count(jobs) == 0


async def test_request_without_a_job_is_invalid(jobs: JobServiceStub):
    error = await rpc_error(jobs.SubmitJob(SubmitJobRequest()))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.violations == {"job": "is required"}


async def test_payload_that_violates_its_schema_is_rejected(
    worker: FakeWorker, jobs: JobServiceStub
):
    payload = Data(json=b'{"data": [1, "x", 2.5], "scale": -1, "more": 1}')
    error = await rpc_error(jobs.SubmitJob(submit("square_sum", payload=payload)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_INVALID")
    assert error.metadata == {"type": "square_sum"}
    assert set(error.violations) == {
        "job.payload",
        "job.payload.data[1]",
        "job.payload.data[2]",
        "job.payload.scale",
    }
    assert error.violations["job.payload.data[1]"] == 'the value is not of type "integer"'
    assert await count(jobs) == 0


async def test_payload_without_a_live_handler_is_not_checked(jobs: JobServiceStub):
    response = await jobs.SubmitJob(submit("square_sum", payload=Data(json=b'"anything"')))
    assert response.outcome == SUBMIT_OUTCOME_CREATED


async def test_payload_that_is_not_json_is_invalid(jobs: JobServiceStub):
    error = await rpc_error(jobs.SubmitJob(submit(payload=Data(json=b'{"a": 1'))))
    assert set(error.violations) == {"job.payload"}
    assert "must be JSON" in error.violations["job.payload"]


async def test_schema_of_a_new_worker_is_used(
    jobs: JobServiceStub, database: Database, settings: Settings
):
    invalid = validate("square_sum", payload=Data(json=b"{}"))
    assert (await jobs.SubmitJob(invalid)).outcome == SUBMIT_OUTCOME_NO_WORKER
    await FakeWorker(database, SQUARE_SUM).register()
    bus = WakeBus(settings, database)
    await bus.start()
    bus.publish(Topic.WORKERS)
    right = validate("square_sum", payload=NUMBERS)
    async with asyncio.timeout(60):
        while (await jobs.SubmitJob(right)).outcome != SUBMIT_OUTCOME_WOULD_RUN:
            pass
    assert (await rpc_error(jobs.SubmitJob(invalid))).reason == "PAYLOAD_INVALID"
    await bus.stop()


async def test_invalid_schema_accepts_every_payload(database: Database, jobs: JobServiceStub):
    for number, schema in enumerate(
        ['{"type": "nonsense"}', "[]", '{"$ref": "http://127.0.0.1:9/schema.json"}']
    ):
        handler = HandlerSpec(type=f"odd{number}", payload_schema=schema)
        await FakeWorker(database, handler).register()
    for number in range(3):
        response = await jobs.SubmitJob(submit(f"odd{number}"))
        assert response.outcome == SUBMIT_OUTCOME_CREATED
        # The gateway has read the handler.
        assert (await jobs.SubmitJob(validate(f"odd{number}"))).outcome == SUBMIT_OUTCOME_WOULD_RUN


async def test_validate_only_returns_the_job_and_stores_nothing(
    worker: FakeWorker, jobs: JobServiceStub
):
    known = await jobs.SubmitJob(validate("square_sum", payload=NUMBERS, priority=3))
    assert known.outcome == SUBMIT_OUTCOME_WOULD_RUN
    assert (known.job.id, known.job.queue, known.job.priority) == ("", "math", 3)
    unknown = await jobs.SubmitJob(validate("nobody_has_this"))
    assert unknown.outcome == SUBMIT_OUTCOME_NO_WORKER
    error = await rpc_error(jobs.SubmitJob(validate("square_sum")))
    assert error.reason == "PAYLOAD_INVALID"
    assert await count(jobs) == 0


async def test_same_request_id_and_content_return_the_job(jobs: JobServiceStub):
    request = submit(request_id="order-17", payload=Data(json=b"[1]"), labels={"a": "1", "b": "2"})
    first = await jobs.SubmitJob(request)
    repeated = await jobs.SubmitJob(request)
    assert first.outcome == SUBMIT_OUTCOME_CREATED
    assert repeated.outcome == SUBMIT_OUTCOME_EXISTING
    assert repeated.job == first.job
    assert await count(jobs) == 1


async def test_key_order_of_a_value_does_not_change_its_content(jobs: JobServiceStub):
    names = [f"key {n}" for n in range(40)]
    outcomes = []
    for order in (names, names[::-1]):
        value = json_format.ParseDict(dict.fromkeys(order, 1), struct_pb2.Value())
        request = submit(request_id="order-17", payload=Data(value=value))
        outcomes.append((await jobs.SubmitJob(request)).outcome)
    assert outcomes == [SUBMIT_OUTCOME_CREATED, SUBMIT_OUTCOME_EXISTING]


OTHER_CONTENT = [
    {"job_type": "other"},
    {"queue": "other"},
    {"payload": Data(json=b"[2]")},
    {"priority": 1},
    {"labels": {"a": "2"}},
    {"timeout": Duration(seconds=1)},
    {"schedule_time": Timestamp(seconds=4_000_000_000)},
    {"deadline": Timestamp(seconds=4_000_000_000)},
    {"retry_policy": RetryPolicy(max_attempts=2)},
    {"retry_policy": RetryPolicy(non_retryable_error_types=["ValueError"])},
]


async def test_same_request_id_with_different_content_conflicts(jobs: JobServiceStub):
    content = {"payload": Data(json=b"[1]"), "labels": {"a": "1"}}
    first = await jobs.SubmitJob(submit(request_id="order-17", **content))
    for change in OTHER_CONTENT:
        other = submit(request_id="order-17", **{**content, **change})
        error = await rpc_error(jobs.SubmitJob(other))
        assert (error.code, error.reason) == (
            grpc.StatusCode.ALREADY_EXISTS,
            "REQUEST_ID_CONFLICT",
        ), change
        assert error.metadata == {"request_id": "order-17", "job_id": first.job.id}
        assert error.details["ResourceInfo"]["resourceName"] == first.job.id
    assert await count(jobs) == 1


async def test_idempotency_does_not_depend_on_live_workers(
    jobs: JobServiceStub, database: Database
):
    request = submit("square_sum", request_id="order-17", payload=NUMBERS)
    first = await jobs.SubmitJob(request)
    assert first.job.queue == "default"
    await FakeWorker(database, SQUARE_SUM).register()
    async with asyncio.timeout(60):
        while (
            await jobs.SubmitJob(validate("square_sum", payload=NUMBERS))
        ).outcome != SUBMIT_OUTCOME_WOULD_RUN:
            pass
    repeated = await jobs.SubmitJob(request)
    assert repeated.outcome == SUBMIT_OUTCOME_EXISTING
    assert repeated.job == first.job


SAME_CONTENT = (
    Data(json=b'{"a":1,"b":"\\u00e9"}'),
    Data(json='{ "b": "é", "a": 1.0 }'.encode()),
    Data(value=json_format.Parse('{"b": "é", "a": 1}', Value())),
)


async def test_same_content_in_a_different_form_returns_the_job(jobs: JobServiceStub):
    first, *others = [
        await jobs.SubmitJob(submit(request_id="order-17", payload=payload))
        for payload in SAME_CONTENT
    ]
    for other in others:
        assert other.outcome == SUBMIT_OUTCOME_EXISTING
        assert other.job.id == first.job.id
    error = await rpc_error(
        jobs.SubmitJob(submit(request_id="order-17", payload=Data(json=b'{"a":2,"b":"\\u00e9"}')))
    )
    assert error.reason == "REQUEST_ID_CONFLICT"


async def test_request_id_of_an_older_version_matches_by_text(
    jobs: JobServiceStub, database: Database
):
    text = '{"b": 1.0, "a": 2}'
    old = domain.JobSpec(type="email")
    async with database.statement() as connection:
        stored = NewJob(
            id=JobId(uuid7()),
            tenant="default",
            spec=replace(old, queue="default"),
            payload=text,
            request_id="order-17",
            # Older versions computed the fingerprint from the payload text.
            fingerprint=fingerprint(old, text),
        )
        await submit_jobs(connection, [stored])
    repeated = await jobs.SubmitJob(submit(request_id="order-17", payload=Data(json=text.encode())))
    assert (repeated.outcome, repeated.job.id) == (SUBMIT_OUTCOME_EXISTING, str(stored.id))
    other = submit(request_id="order-17", payload=Data(json=b'{"b": 1, "a": 3}'))
    assert (await rpc_error(jobs.SubmitJob(other))).reason == "REQUEST_ID_CONFLICT"


async def test_validate_only_with_a_known_key_returns_the_job(jobs: JobServiceStub):
    request = submit(request_id="order-17", payload=SAME_CONTENT[0])
    request.validate_only = True
    assert (await jobs.SubmitJob(request)).outcome == SUBMIT_OUTCOME_NO_WORKER
    first = (await jobs.SubmitJob(submit(request_id="order-17", payload=SAME_CONTENT[1]))).job
    response = await jobs.SubmitJob(request)
    assert (response.outcome, response.job.id) == (SUBMIT_OUTCOME_EXISTING, first.id)
    request.job.priority = 1
    error = await rpc_error(jobs.SubmitJob(request))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_CONFLICT")
    assert error.metadata["job_id"] == first.id


async def test_jobs_and_batches_have_separate_keys(jobs: JobServiceStub):
    job = (await jobs.SubmitJob(submit(request_id="order-17"))).job
    batch = BatchSubmitJobsRequest(
        jobs=[JobSpec(type="email", payload=SAME_CONTENT[0])], request_id="order-17"
    )
    batch.validate_only = True
    assert (await jobs.BatchSubmitJobs(batch)).outcome == SUBMIT_OUTCOME_NO_WORKER
    batch.validate_only = False
    created = await jobs.BatchSubmitJobs(batch)
    assert created.outcome == SUBMIT_OUTCOME_CREATED
    assert created.jobs[0].id != job.id
    batch.jobs[0].payload.CopyFrom(SAME_CONTENT[2])
    for batch.validate_only in (True, False):
        repeated = await jobs.BatchSubmitJobs(batch)
        assert (repeated.outcome, repeated.batch_id) == (SUBMIT_OUTCOME_EXISTING, created.batch_id)
        assert [one.id for one in repeated.jobs] == [created.jobs[0].id]
    batch.jobs[0].priority = 1
    for batch.validate_only in (True, False):
        error = await rpc_error(jobs.BatchSubmitJobs(batch))
        assert error.reason == "REQUEST_ID_CONFLICT"
        assert error.metadata["batch_id"] == created.batch_id
    # SubmitAndWatch shares the keys of SubmitJob.
    watch = jobs.SubmitAndWatch(
        SubmitAndWatchRequest(job=JobSpec(type="email"), request_id="order-17")
    )
    assert (await watch.read()).job.id == job.id
    watch.cancel()


async def test_concurrent_submits_with_one_key_create_one_job(jobs: JobServiceStub):
    request = submit(request_id="order-17", payload=Data(json=b"[1]"))
    responses = await asyncio.gather(*(jobs.SubmitJob(request) for _ in range(200)))
    assert len({response.job.id for response in responses}) == 1
    outcomes = [response.outcome for response in responses]
    assert outcomes.count(SUBMIT_OUTCOME_CREATED) == 1
    assert outcomes.count(SUBMIT_OUTCOME_EXISTING) == 199
    assert await count(jobs) == 1


async def test_concurrent_different_contents_with_one_key_conflict(
    jobs: JobServiceStub,
):
    async def attempt(number: int) -> str:
        request = submit(request_id="order-17", payload=Data(json=str(number).encode()))
        try:
            await jobs.SubmitJob(request)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    outcomes = await asyncio.gather(*(attempt(number) for number in range(200)))
    assert Counter(outcomes) == {"OK": 1, "ALREADY_EXISTS": 199}
    assert await count(jobs) == 1


async def test_concurrent_submits_share_commits(jobs: JobServiceStub, database: Database):
    responses = await asyncio.gather(
        *(jobs.SubmitJob(submit(labels={"n": str(n)})) for n in range(500))
    )
    assert [response.job.labels["n"] for response in responses] == [str(n) for n in range(500)]
    assert len({response.job.id for response in responses}) == 500
    async with database.transaction() as conn:
        commits = await conn.scalar(text("SELECT count(DISTINCT xid::text) FROM job_events"))
    assert commits < 400


async def test_cancelled_submits_do_not_affect_other_submits(jobs: JobServiceStub):
    calls = [jobs.SubmitJob(submit(labels={"n": str(n)})) for n in range(100)]
    for call in calls[::2]:
        call.cancel()
    responses = await asyncio.gather(*calls[1::2])
    assert [response.job.labels["n"] for response in responses] == [
        str(n) for n in range(1, 100, 2)
    ]


class TestLimits:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_payload_bytes": 1000, "max_labels": 2})

    async def test_oversized_payload_names_its_limit(self, jobs: JobServiceStub):
        payload = Data(json=b'"' + b"x" * 1000 + b'"')
        error = await rpc_error(jobs.SubmitJob(submit(payload=payload)))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert set(error.violations) == {"job.payload"}
        assert error.reason == "LIMIT_EXCEEDED"
        assert error.metadata == {
            "limit": "HEADRACE_MAX_PAYLOAD_BYTES",
            "maximum": "1000",
            "actual": "1002",
        }
        assert "job.payload has 1002 bytes; at most 1000 are allowed" in error.message

    async def test_error_for_too_many_labels_names_the_limit(self, jobs: JobServiceStub):
        error = await rpc_error(jobs.SubmitJob(submit(labels={"a": "", "b": "", "c": ""})))
        assert error.metadata["limit"] == "HEADRACE_MAX_LABELS"

    async def test_payload_and_labels_at_their_limits_are_stored(self, jobs: JobServiceStub):
        payload = Data(json=b'"' + b"x" * 998 + b'"')
        response = await jobs.SubmitJob(submit(payload=payload, labels={"a": "", "b": ""}))
        assert response.outcome == SUBMIT_OUTCOME_CREATED


async def submit_outcome(jobs: JobServiceStub) -> str:
    """Submit a job; return its id, or the error code."""
    try:
        return (await jobs.SubmitJob(submit())).job.id
    except grpc.aio.AioRpcError as error:
        return error.code().name


class TestOverload:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_pending_submits": 5})

    async def test_submits_beyond_the_waiting_limit_are_unavailable(
        self, jobs: JobServiceStub, database: Database
    ):
        async with database.transaction() as conn:
            # No submit can commit until this transaction ends.
            await conn.execute(text("LOCK TABLE jobs"))
            calls = [asyncio.ensure_future(submit_outcome(jobs)) for _ in range(12)]
            finished = asyncio.as_completed(calls, timeout=60)
            assert [await next(finished) for _ in range(7)] == ["UNAVAILABLE"] * 7
        outcomes = await asyncio.gather(*calls)
        assert len(set(outcomes) - {"UNAVAILABLE"}) == 5
        assert await count(jobs) == 5


async def test_job_is_listed_once_its_submit_returns(jobs: JobServiceStub):
    job = (await jobs.SubmitJob(submit(request_id="r"))).job
    listed = (await jobs.ListJobs(ListJobsRequest(filter='request_id = "r"'))).jobs
    assert [other.id for other in listed] == [job.id]

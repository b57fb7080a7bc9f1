"""Conversion of responses to protobuf."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1 import event_pb2, job_pb2
from headrace.v1.data_pb2 import DATA_ENCODING_JSON, DATA_ENCODING_VALUE
from headrace_core.domain.handler import HandlerSpec, LiveHandler
from headrace_core.domain.ids import BatchId, JobId, WorkerId, uuid7
from headrace_core.domain.job import Job, JobError, JobEvent, JobSpec, Progress
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.retry import RetryOverrides, RetryPolicy
from headrace_core.domain.stats import JobCount, Stats
from headrace_core.domain.trace import TraceContext
from headrace_gateway.grpc.encode import (
    event_message,
    handler_message,
    job_message,
    spec_message,
    stats_message,
)

TIME = datetime(2026, 11, 22, 1, 2, 3, 456_789, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return TIME + timedelta(seconds=seconds)


NEW_JOB = Job(
    id=JobId(uuid7()),
    tenant="default",
    type="email",
    queue="mail",
    payload=None,
    priority=0,
    labels={},
    timeout=None,
    deadline=None,
    retry=RetryOverrides(),
    request_id=None,
    batch_id=None,
    state=JobState.QUEUED,
    attempt=0,
    retries_used=0,
    seq=1,
    progress=None,
    result=None,
    error=None,
    worker_id=None,
    create_time=at(0),
    due_time=at(0),
    queue_time=None,
    start_time=None,
    cancel_request_time=None,
    end_time=None,
    update_time=at(0),
)
FULL_JOB = replace(
    NEW_JOB,
    payload='{"n": 12345678901234567890}',
    priority=-7,
    labels={"team": "ml"},
    timeout=timedelta(seconds=1.5),
    deadline=at(1),
    retry=RetryOverrides(
        max_attempts=5,
        initial_backoff=timedelta(seconds=1),
        jitter=0.0,
        non_retryable_error_types=("ValueError",),
    ),
    request_id="order-17",
    batch_id=BatchId(uuid7()),
    state=JobState.SUCCEEDED,
    attempt=3,
    retries_used=2,
    seq=9,
    progress=Progress(fraction=0.5, message="half", counters='{"rows": 3}'),
    result="[1]",
    error=JobError(type="ValueError", message="no", retryable=True, stack_trace="File …"),
    worker_id=WorkerId(uuid7()),
    due_time=at(2),
    queue_time=at(3),
    start_time=at(4),
    cancel_request_time=at(5),
    end_time=at(6),
    update_time=at(7),
    correlation_id="trace-17",
    submitted_by="ada",
    trace_context=TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a=1"),
    unreadable=("due_time",),
    withheld=("payload",),
)


def test_new_job_has_only_its_set_fields():
    assert json_format.MessageToDict(job_message(NEW_JOB, DATA_ENCODING_VALUE)) == {
        "id": str(NEW_JOB.id),
        "tenant": "default",
        "type": "email",
        "queue": "mail",
        "state": "JOB_STATE_QUEUED",
        "seq": "1",
        "createTime": "2026-11-22T01:02:03.456789Z",
        "scheduleTime": "2026-11-22T01:02:03.456789Z",
        "updateTime": "2026-11-22T01:02:03.456789Z",
    }


def test_job_with_every_field_is_encoded():
    message = job_message(FULL_JOB, DATA_ENCODING_VALUE)
    assert json_format.MessageToDict(message) == {
        "id": str(FULL_JOB.id),
        "tenant": "default",
        "type": "email",
        "queue": "mail",
        "payload": {"value": {"n": "12345678901234567890"}},
        "priority": -7,
        "labels": {"team": "ml"},
        "timeout": "1.500s",
        "deadline": "2026-11-22T01:02:04.456789Z",
        "retryPolicy": {
            "maxAttempts": 5,
            "initialBackoff": "1s",
            "jitter": 0.0,
            "nonRetryableErrorTypes": ["ValueError"],
        },
        "requestId": "order-17",
        "batchId": str(FULL_JOB.batch_id),
        "state": "JOB_STATE_SUCCEEDED",
        "attempt": 3,
        "retriesUsed": 2,
        "seq": "9",
        "progress": {
            "fraction": 0.5,
            "message": "half",
            "counters": {"value": {"rows": 3.0}},
        },
        "result": {"value": [1.0]},
        "error": {
            "type": "ValueError",
            "message": "no",
            "retryable": True,
            "stackTrace": "File …",
        },
        "workerId": str(FULL_JOB.worker_id),
        "createTime": "2026-11-22T01:02:03.456789Z",
        "scheduleTime": "2026-11-22T01:02:05.456789Z",
        "queueTime": "2026-11-22T01:02:06.456789Z",
        "startTime": "2026-11-22T01:02:07.456789Z",
        "cancelRequestTime": "2026-11-22T01:02:08.456789Z",
        "endTime": "2026-11-22T01:02:09.456789Z",
        "updateTime": "2026-11-22T01:02:10.456789Z",
        "correlationId": "trace-17",
        "unreadableFields": ["schedule_time"],
        "withheldFields": ["payload"],
        "submittedBy": "ada",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": "a=1",
    }
    assert len(message.ListFields()) == len(job_pb2.Job.DESCRIPTOR.fields)


def test_json_encoding_keeps_the_text_of_documents():
    message = job_message(FULL_JOB, DATA_ENCODING_JSON)
    assert message.payload.json == b'{"n": 12345678901234567890}'
    assert message.result.json == b"[1]"
    assert message.progress.counters.json == b'{"rows": 3}'


def test_validated_job_has_no_id_and_no_state():
    message = spec_message(
        JobSpec(type="email", queue="mail", schedule_time=at(9)), tenant="default", request_id="r"
    )
    assert json_format.MessageToDict(message) == {
        "tenant": "default",
        "type": "email",
        "queue": "mail",
        "requestId": "r",
        "scheduleTime": "2026-11-22T01:02:12.456789Z",
    }


@pytest.mark.parametrize("state", JobState)
def test_every_state_has_its_enum_value(state: JobState):
    message = job_message(replace(NEW_JOB, state=state), DATA_ENCODING_VALUE)
    assert job_pb2.JobState.Name(message.state) == f"JOB_STATE_{state.name}"


EVENT = JobEvent(
    job_id=NEW_JOB.id,
    seq=4,
    type=EventType.STARTED,
    state=JobState.RUNNING,
    attempt=2,
    time=at(0),
    job_type="email",
    queue="mail",
    labels={"team": "ml"},
    batch_id=None,
    tenant="default",
)


@pytest.mark.parametrize("event_type", EventType)
def test_every_event_has_its_enum_value(event_type: EventType):
    message = event_message(replace(EVENT, type=event_type), DATA_ENCODING_VALUE)
    assert event_pb2.JobEventType.Name(message.type) == f"JOB_EVENT_TYPE_{event_type.name}"


def test_contract_has_no_other_enum_values():
    assert len(job_pb2.JobState.values()) == len(JobState) + 1
    assert len(event_pb2.JobEventType.values()) == len(EventType) + 1


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ({}, {}),
        ({"worker_id": WorkerId(uuid4())}, {"workerId"}),
        ({"error": JobError(type="E", message="m", retryable=False)}, {"error"}),
        ({"error": JobError(type="", message="", retryable=False)}, {"error"}),
        ({"progress": Progress(fraction=1.0)}, {"progress"}),
        ({"output": '"x"'}, {"output"}),
        ({"due_time": at(1)}, {"scheduleTime"}),
    ],
)
def test_event_detail_sets_its_field(detail: dict[str, object], shown: set[str]):
    message = event_message(replace(EVENT, **detail), DATA_ENCODING_VALUE)
    always = {"jobId", "seq", "type", "state", "attempt", "eventTime", "jobType", "queue"}
    assert set(json_format.MessageToDict(message)) == always | set(shown)


def test_event_sets_every_contract_field():
    # These fields only order and filter events.
    inner = {"labels", "batch_id", "tenant", "xid", "position"}
    assert {field.name for field in fields(JobEvent)} - inner == {
        {
            "event_time": "time",
            "schedule_time": "due_time",
            "withheld_fields": "withheld",
        }.get(field.name, field.name)
        for field in event_pb2.JobEvent.DESCRIPTOR.fields
    }


def test_handler_with_every_field_is_encoded():
    handler = LiveHandler(
        spec=HandlerSpec(
            type="email",
            queue="mail",
            description="Sends a mail.",
            payload_schema='{"type": "object"}',
            timeout=timedelta(seconds=30),
            retry=RetryPolicy(max_attempts=2),
        ),
        live_workers=3,
    )
    assert json_format.MessageToDict(handler_message(handler, DATA_ENCODING_VALUE)) == {
        "type": "email",
        "queue": "mail",
        "description": "Sends a mail.",
        "payloadSchema": {"value": {"type": "object"}},
        "resultSchema": {"value": {}},
        "timeout": "30s",
        "retryPolicy": {
            "maxAttempts": 2,
            "initialBackoff": "1s",
            "maxBackoff": "300s",
            "multiplier": 2.0,
            "jitter": 1.0,
        },
        "liveWorkers": 3,
    }


def test_statistics_are_summed_by_state_queue_and_type():
    stats = Stats(
        time=at(0),
        counts=[
            JobCount("mail", "email", JobState.QUEUED, 2),
            JobCount("mail", "email", JobState.FAILED, 1),
            JobCount("bulk", "email", JobState.QUEUED, 3),
            JobCount("bulk", "audit", JobState.SUCCEEDED, 4),
        ],
        oldest={"mail": at(0) - timedelta(seconds=5)},
    )
    queued, failed, succeeded = (
        lambda n: {"state": "JOB_STATE_QUEUED", "jobs": str(n)},
        lambda n: {"state": "JOB_STATE_FAILED", "jobs": str(n)},
        lambda n: {"state": "JOB_STATE_SUCCEEDED", "jobs": str(n)},
    )
    assert json_format.MessageToDict(stats_message(stats)) == {
        "states": [queued(5), succeeded(4), failed(1)],
        "queues": [
            {"queue": "bulk", "states": [queued(3), succeeded(4)]},
            {"queue": "mail", "states": [queued(2), failed(1)], "age": "5s"},
        ],
        "types": [
            {"type": "audit", "states": [succeeded(4)]},
            {"type": "email", "states": [queued(5), failed(1)]},
        ],
        "statsTime": "2026-11-22T01:02:03.456789Z",
    }


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_are_exact_to_the_microsecond(time: datetime):
    message = job_message(replace(NEW_JOB, create_time=time), DATA_ENCODING_VALUE)
    assert message.create_time.ToDatetime(UTC) == time

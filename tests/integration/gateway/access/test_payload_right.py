"""The right `payload:read`: without it, no response contains data from submitters or handlers."""

from __future__ import annotations

import asyncio
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor

from headrace.v1 import job_service_pb2 as js
from headrace.v1 import subscription_service_pb2 as ss
from headrace.v1.data_pb2 import DATA_ENCODING_JSON, Data
from headrace.v1.job_pb2 import JOB_VIEW_FULL, Job, JobSpec
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from headrace_core.domain.access import Role
from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobError
from headrace_core.domain.lifecycle import EventType
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.grpc.server import SERVICE_DESCRIPTORS
from support import workers
from support.access import Metadata, caller
from support.gateway import TIMEOUT, FakeWorker, rpc_error

MARKER = "private-text"
PRIVATE = Data(json=f'"{MARKER}"'.encode())

# The messages that can contain job data, with all their fields. Fields in PAYLOAD are withheld
# without the right; fields in PLAIN never are.
PAYLOAD = {
    "Job": {"payload", "result", "error"},
    "JobEvent": {"error", "output"},
    "JobOutput": {"output"},
    # The right is required for the whole message.
    "JobLogLine": {"logger", "message", "fields"},
    "JobError": {"message", "stack_trace"},
}
PLAIN = {
    "Job": {
        *("id", "tenant", "type", "queue", "priority", "labels", "timeout", "deadline"),
        *("retry_policy", "request_id", "batch_id", "state", "attempt", "retries_used", "seq"),
        *("progress", "worker_id", "create_time", "schedule_time", "queue_time", "start_time"),
        *("cancel_request_time", "end_time", "update_time", "correlation_id"),
        *("unreadable_fields", "withheld_fields", "submitted_by", "traceparent", "tracestate"),
    },
    "JobEvent": {
        *("job_id", "seq", "type", "state", "attempt", "event_time", "job_type", "queue"),
        *("progress", "schedule_time", "worker_id", "withheld_fields", "principal", "reason"),
    },
    "JobOutput": {"seq", "attempt", "output_time"},
    "JobLogLine": {"position", "attempt", "line", "log_time", "level", "dropped_lines"},
    "JobError": {"type", "retryable"},
    # Progress is visible to every principal that may see the job.
    "JobProgress": {"fraction", "message", "counters"},
    # Schemas describe payloads, and contain none.
    "Handler": {
        *("type", "queue", "description", "payload_schema", "result_schema", "timeout"),
        *("retry_policy", "live_workers"),
    },
}
DATA_MESSAGES = {"headrace.v1.Data", "headrace.v1.JobError", "headrace.v1.JobProgress"}


def messages_with_data() -> dict[str, Descriptor]:
    """Return the response messages that are in DATA_MESSAGES or have a field of such a message."""
    messages_by_name: dict[str, Descriptor] = {}
    seen: set[str] = set()

    def visit(message: Descriptor) -> None:
        if message.full_name in seen or not message.full_name.startswith("headrace.v1."):
            return
        seen.add(message.full_name)
        inner = [field.message_type for field in message.fields if field.message_type is not None]
        if DATA_MESSAGES & {kind.full_name for kind in inner} or message.full_name in DATA_MESSAGES:
            messages_by_name[message.name] = message
        for kind in inner:
            visit(kind)

    for service in SERVICE_DESCRIPTORS:
        for method in service.methods:
            visit(method.output_type)
    del messages_by_name["Data"]
    return messages_by_name


def test_every_field_is_in_one_table() -> None:
    fields = {
        name: {field.name for field in message.fields}
        for name, message in messages_with_data().items()
    }
    table = {name: PLAIN.get(name, set()) | PAYLOAD.get(name, set()) for name in {*PLAIN, *PAYLOAD}}
    assert fields == table
    assert not any(PLAIN.get(name, set()) & fields for name, fields in PAYLOAD.items())


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def worker(database: Database) -> FakeWorker:
    worker = FakeWorker(database, HandlerSpec(type="test", queue="q"))
    await worker.register()
    return worker


class Jobs:
    """Jobs with a private text in each field that can contain data."""

    succeeded: str
    failed: str
    batch_id: str
    cursor: str


@pytest.fixture
async def jobs_with_data(channel: grpc.aio.Channel, database: Database, worker: FakeWorker) -> Jobs:
    admin = await caller(database, Role.ADMIN, "payload:read")
    api = JobServiceStub(channel)
    stream = api.WatchJobs(js.WatchJobsRequest(), metadata=admin)
    jobs = Jobs()
    jobs.cursor = (await stream.read()).cursor
    stream.cancel()
    await SubscriptionServiceStub(channel).CreateSubscription(
        ss.CreateSubscriptionRequest(name="all"), metadata=admin
    )
    spec = JobSpec(type="test", payload=PRIVATE)
    for name in ("succeeded", "failed"):
        submit = js.SubmitJobRequest(job=spec, request_id=name)
        setattr(jobs, name, (await api.SubmitJob(submit, metadata=admin)).job.id)
        await worker.start_job(getattr(jobs, name))
        await worker.report(getattr(jobs, name), output=f'"{MARKER}"')
    await worker.succeed(jobs.succeeded, result=f'"{MARKER}"')
    error = JobError(type="ValueError", message=MARKER, retryable=False, stack_trace=MARKER)
    end = workers.attempt_end(JobId(UUID(jobs.failed)), 1, EventType.FAILED, error=error)
    assert await workers.write_ends(database, worker.id, end)
    return jobs


async def responses(
    channel: grpc.aio.Channel, jobs: Jobs, metadata: Metadata
) -> list[tuple[str, bytes]]:
    """Return the response of each RPC that shows jobs or events, with its name."""
    api, subscriptions = JobServiceStub(channel), SubscriptionServiceStub(channel)
    named_responses: list[tuple[str, bytes]] = []

    def record(name: str, *received: object) -> None:
        named_responses.append(
            (name, b"".join(message.SerializeToString() for message in received))
        )

    for job_id in (jobs.succeeded, jobs.failed):
        get = js.GetJobRequest(job_id=job_id, view=JOB_VIEW_FULL, data_encoding=DATA_ENCODING_JSON)
        record("GetJob", await api.GetJob(get, metadata=metadata))
        events = js.ListJobEventsRequest(job_id=job_id, data_encoding=DATA_ENCODING_JSON)
        record("ListJobEvents", await api.ListJobEvents(events, metadata=metadata))
        watch = js.WatchJobRequest(job_id=job_id, data_encoding=DATA_ENCODING_JSON)
        record("WatchJob", *[message async for message in api.WatchJob(watch, metadata=metadata)])
    listing = js.ListJobsRequest(view=JOB_VIEW_FULL, data_encoding=DATA_ENCODING_JSON)
    record("ListJobs", await api.ListJobs(listing, metadata=metadata))
    submit = js.SubmitJobRequest(job=JobSpec(type="test", payload=PRIVATE), request_id="failed")
    record("SubmitJob", await api.SubmitJob(submit, metadata=metadata))
    attach = js.SubmitAndWatchRequest(
        job=JobSpec(type="test", payload=PRIVATE),
        request_id="failed",
        data_encoding=DATA_ENCODING_JSON,
    )
    stream = api.SubmitAndWatch(attach, metadata=metadata)
    record("SubmitAndWatch", *[message async for message in stream])
    for name, call in (
        (
            "WatchJobs",
            api.WatchJobs(
                js.WatchJobsRequest(cursor=jobs.cursor, data_encoding=DATA_ENCODING_JSON),
                metadata=metadata,
            ),
        ),
        (
            "WatchSubscription",
            subscriptions.WatchSubscription(
                ss.WatchSubscriptionRequest(name="all", data_encoding=DATA_ENCODING_JSON),
                metadata=metadata,
            ),
        ),
    ):
        received: list[object] = []
        count = 0
        async with asyncio.timeout(TIMEOUT):
            while count < 8:
                received.append(await call.read())
                count += len(received[-1].events)
        call.cancel()
        record(name, *received)
    return named_responses


async def test_payloads_are_withheld_without_the_right(
    channel: grpc.aio.Channel, database: Database, jobs_with_data: Jobs
) -> None:
    operator = await caller(database, Role.OPERATOR)
    shown = await responses(channel, jobs_with_data, operator)
    assert [name for name, received in shown if MARKER.encode() in received] == []
    api = JobServiceStub(channel)
    job_id = jobs_with_data.succeeded
    for call in (
        api.ListJobOutput(js.ListJobOutputRequest(job_id=job_id), metadata=operator),
        api.ListJobLogs(js.ListJobLogsRequest(job_id=job_id), metadata=operator),
        api.WatchJobLogs(js.WatchJobLogsRequest(job_id=job_id), metadata=operator).read(),
    ):
        error = await rpc_error(call)
        assert error.code is grpc.StatusCode.PERMISSION_DENIED
        assert error.metadata == {"right": "payload:read"}


async def test_payloads_are_shown_with_the_right(
    channel: grpc.aio.Channel, database: Database, jobs_with_data: Jobs
) -> None:
    reader = await caller(database, Role.OPERATOR, "payload:read")
    shown = await responses(channel, jobs_with_data, reader)
    assert [name for name, received in shown if MARKER.encode() not in received] == []


async def test_withheld_fields_are_named(
    channel: grpc.aio.Channel, database: Database, jobs_with_data: Jobs
) -> None:
    viewer = await caller(database, Role.VIEWER)
    api = JobServiceStub(channel)
    job: Job = (
        await api.GetJob(js.GetJobRequest(job_id=jobs_with_data.failed), metadata=viewer)
    ).job
    assert set(job.withheld_fields) == {
        "payload",
        "result",
        "error.message",
        "error.stack_trace",
    }
    assert (job.error.type, job.error.stack_trace) == ("ValueError", "")
    events = (
        await api.ListJobEvents(
            js.ListJobEventsRequest(job_id=jobs_with_data.failed), metadata=viewer
        )
    ).events
    withheld = {event.seq: list(event.withheld_fields) for event in events}
    assert withheld == {1: [], 2: [], 3: ["output"], 4: ["error.message"]}

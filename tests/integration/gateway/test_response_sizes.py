"""Every response of every RPC fits the 4 MiB of a default client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from sqlalchemy import text

from headrace.v1 import access_service_pb2 as acs
from headrace.v1 import audit_service_pb2 as aus
from headrace.v1 import handler_service_pb2 as hs
from headrace.v1 import job_service_pb2 as js
from headrace.v1 import monitor_service_pb2 as ms
from headrace.v1 import session_service_pb2 as ses
from headrace.v1 import subscription_service_pb2 as ss
from headrace.v1 import tenant_service_pb2 as ts
from headrace.v1 import user_service_pb2 as us
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.audit_service_pb2_grpc import AuditServiceStub
from headrace.v1.data_pb2 import DATA_ENCODING_JSON, DATA_ENCODING_VALUE, Data
from headrace.v1.handler_service_pb2_grpc import HandlerServiceStub
from headrace.v1.job_pb2 import JOB_STATE_SUCCEEDED, JOB_VIEW_FULL, JobSpec, RetryPolicy
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.monitor_service_pb2_grpc import MonitorServiceStub
from headrace.v1.session_service_pb2_grpc import SessionServiceStub
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from headrace.v1.tenant_service_pb2_grpc import TenantServiceStub
from headrace.v1.user_service_pb2_grpc import UserServiceStub
from headrace_core.domain.audit import AuditEntry
from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.job import Progress
from headrace_core.domain.limits import MAX_DOCUMENT_BYTES, MAX_LABELS
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.audit import record_audit
from headrace_core.store.sql.database import Database
from headrace_gateway.grpc.data import MAX_VALUE_BYTES
from headrace_gateway.grpc.server import MAX_RESPONSE_BYTES, SERVICE_DESCRIPTORS
from support.gateway import TIMEOUT, FakeWorker

# A number takes eleven bytes in a Value. The first document has the maximum size of a Value.
# Responses contain the second document as text.
NUMBERS = "[" + ",".join("0" * (MAX_VALUE_BYTES // 11 - 2)) + "]"
TEXT = json.dumps("x" * (MAX_DOCUMENT_BYTES - 2))
LONGEST_LABEL = "\U00010000" * 255
ENCODINGS = (DATA_ENCODING_VALUE, DATA_ENCODING_JSON)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    largest = {f"max_{name}_bytes": MAX_DOCUMENT_BYTES for name in ("payload", "result", "output")}
    return settings.model_copy(update={**largest, "max_labels": MAX_LABELS, "stream_idle": 0.2})


@pytest.fixture
async def worker(database: Database) -> FakeWorker:
    schema = json.dumps({"description": "s" * 700_000})
    handlers = [
        HandlerSpec(
            type=f"t{number}",
            queue="q",
            description="d" * 100_000,
            payload_schema=schema if number else json.dumps({"description": "s" * 2_000_000}),
            result_schema=schema,
        )
        for number in range(8)
    ]
    worker = FakeWorker(database, *handlers)
    await worker.register()
    return worker


@dataclass
class FilledPlatform:
    """A platform with values of the maximum sizes."""

    database: Database
    jobs: JobServiceStub
    handlers: HandlerServiceStub
    subscriptions: SubscriptionServiceStub
    access: AccessServiceStub
    audit: AuditServiceStub
    sessions: SessionServiceStub
    users: UserServiceStub
    tenants: TenantServiceStub
    monitor: MonitorServiceStub
    job_ids: list[str]
    cursor: str
    sizes: dict[str, list[int]] = field(default_factory=dict)

    async def call(self, name: str, request: Message) -> Message:
        """Make a unary call and record the size of its response."""
        stub = next(
            stub
            for stub in (
                *(self.jobs, self.handlers, self.subscriptions),
                *(self.access, self.audit, self.sessions, self.users),
                *(self.tenants, self.monitor),
            )
            if hasattr(stub, name)
        )
        response = await getattr(stub, name)(request, timeout=TIMEOUT)
        self.sizes.setdefault(name, []).append(response.ByteSize())
        return response

    async def events(self, name: str, request: Message, count: int) -> list[Message]:
        """Read a stream up to its `count`th event, or to the ended job if it is requested."""
        stub = self.subscriptions if name == "WatchSubscription" else self.jobs
        call = getattr(stub, name)(request)
        events: list[Message] = []
        async with asyncio.timeout(TIMEOUT):
            ended = not getattr(request, "include_job", False)
            while len(events) < count or not ended:
                response = await call.read()
                assert response is not grpc.aio.EOF, name
                self.sizes.setdefault(name, []).append(response.ByteSize())
                events += response.events
                ended = ended or response.HasField("ended_job")
        call.cancel()
        return events


def largest_job(payload: str) -> JobSpec:
    return JobSpec(
        type="t1",
        payload=Data(json=payload.encode()),
        labels={f"{number:063}": LONGEST_LABEL for number in range(MAX_LABELS)},
        retry_policy=RetryPolicy(
            non_retryable_error_types=["\U00010000" * 199 + str(n % 10) for n in range(32)]
        ),
    )


@pytest.fixture
async def filled(
    channel: grpc.aio.Channel, worker: FakeWorker, database: Database
) -> FilledPlatform:
    jobs = JobServiceStub(channel)
    filled = FilledPlatform(
        database,
        jobs,
        HandlerServiceStub(channel),
        SubscriptionServiceStub(channel),
        AccessServiceStub(channel),
        AuditServiceStub(channel),
        SessionServiceStub(channel),
        UserServiceStub(channel),
        TenantServiceStub(channel),
        MonitorServiceStub(channel),
        [],
        "",
    )
    stream = jobs.WatchJobs(js.WatchJobsRequest())
    filled.cursor = (await stream.read()).cursor
    stream.cancel()
    for document in (NUMBERS, TEXT):
        response = await filled.call(
            "SubmitJob",
            js.SubmitJobRequest(job=largest_job(document), request_id=f"key{len(document)}"),
        )
        job_id = response.job.id
        filled.job_ids.append(job_id)
        await worker.start_job(job_id)
        counters = {"\U00010000" * 63 + chr(65 + number): number for number in range(64)}
        progress = Progress(fraction=1, message="m" * 4096, counters=json.dumps(counters))
        await worker.report(job_id, progress=progress)
        for _ in range(6):
            await worker.report(job_id, output=document)
        await worker.succeed(job_id, result=document)
    failed = (await filled.call("SubmitJob", js.SubmitJobRequest(job=largest_job(TEXT)))).job.id
    filled.job_ids.append(failed)
    await worker.start_job(failed)
    await worker.fail(failed)
    # Older versions accepted documents of these sizes.
    for name, pieces in (("progress", 20_000), ("progress", 2_000_000), ("result", 3_000_000)):
        document = {"fraction": 1, "message": "", "counters": {"a": [0] * pieces}}
        row = {
            "document": json.dumps(document),
            "id": filled.job_ids[1 if name == "result" else 2],
        }
        async with database.statement() as connection:
            await connection.execute(
                text(
                    f"UPDATE jobs SET {name} = CAST(:document AS json) WHERE id = CAST(:id AS uuid)"
                ),
                row,
            )
    return filled


async def get_job(filled: FilledPlatform) -> None:
    shown = set()
    for job_id in filled.job_ids:
        for encoding in ENCODINGS:
            request = js.GetJobRequest(job_id=job_id, data_encoding=encoding)
            job = (await filled.call("GetJob", request)).job
            shown.add((job.payload.WhichOneof("kind"), job.payload.value.WhichOneof("kind")))
            if job_id == filled.job_ids[1]:
                assert job.result.omitted_bytes > MAX_DOCUMENT_BYTES
                assert job.result.WhichOneof("kind") is None
    assert shown == {("value", "list_value"), ("value", "string_value"), ("json", None)}


async def list_jobs(filled: FilledPlatform) -> None:
    for encoding in ENCODINGS:
        seen, token = [], ""
        while True:
            request = js.ListJobsRequest(
                view=JOB_VIEW_FULL, data_encoding=encoding, page_token=token, page_size=1000
            )
            page = await filled.call("ListJobs", request)
            seen += [job.id for job in page.jobs]
            token = page.next_page_token
            if not token:
                break
        assert seen == filled.job_ids[::-1]


async def list_job_events(filled: FilledPlatform) -> None:
    for job_id in filled.job_ids[:2]:
        seen, after_seq = [], 0
        while True:
            request = js.ListJobEventsRequest(job_id=job_id, after_seq=after_seq, page_size=1000)
            page = await filled.call("ListJobEvents", request)
            seen += [event.seq for event in page.events]
            after_seq = page.next_after_seq
            if not after_seq:
                break
        assert seen == list(range(1, 11))


async def list_job_output(filled: FilledPlatform) -> None:
    for job_id in filled.job_ids[:2]:
        for encoding in ENCODINGS:
            pieces, after_seq = [], 0
            while True:
                request = js.ListJobOutputRequest(
                    job_id=job_id, after_seq=after_seq, page_size=1000, data_encoding=encoding
                )
                page = await filled.call("ListJobOutput", request)
                pieces += page.pieces
                after_seq = page.next_after_seq
                if not after_seq:
                    break
            assert [piece.seq for piece in pieces] == list(range(4, 10))
            assert all(piece.output.WhichOneof("kind") for piece in pieces)


async def job_logs(filled: FilledPlatform) -> None:
    # As a protobuf Value, such a list takes six times its size as JSON.
    fields = json.dumps({"numbers": [0] * 5_000})
    line = ["2026-11-01T00:00:00Z", 20, "handlers", "m" * 1_000, fields, 0]
    async with filled.database.transaction() as connection:
        await connection.execute(
            text("""
                INSERT INTO job_logs (job_id, attempt, last_line, tenant, lines)
                SELECT :id, 1, n, 'default', CAST(:lines AS json) FROM generate_series(1, 200) n
            """),
            {"id": UUID(filled.job_ids[0]), "lines": json.dumps([line])},
        )
    for encoding in ENCODINGS:
        count = position = 0
        while True:
            request = js.ListJobLogsRequest(
                job_id=filled.job_ids[0],
                after_position=position,
                page_size=1000,
                data_encoding=encoding,
            )
            page = await filled.call("ListJobLogs", request)
            count += len(page.lines)
            position = page.next_after_position
            if not position:
                break
        assert count == 200
        stream = filled.jobs.WatchJobLogs(
            js.WatchJobLogsRequest(job_id=filled.job_ids[0], data_encoding=encoding),
            timeout=TIMEOUT,
        )
        streamed = 0
        while streamed < 200:
            response = await stream.read()
            filled.sizes.setdefault("WatchJobLogs", []).append(response.ByteSize())
            streamed += len(response.lines)
        stream.cancel()


async def batch_submit(filled: FilledPlatform) -> None:
    spec = JobSpec(type="t1", labels={f"{number:063}": "x" * 255 for number in range(11)})
    for validate_only in (True, False, False):
        request = js.BatchSubmitJobsRequest(
            jobs=[spec] * 1000, request_id="batch", validate_only=validate_only
        )
        response = await filled.call("BatchSubmitJobs", request)
        assert response.reduced
        assert len(response.jobs) == 1000
        assert not response.jobs[0].labels
    small_batch = js.BatchSubmitJobsRequest(jobs=[spec] * 2)
    response = await filled.call("BatchSubmitJobs", small_batch)
    assert not response.reduced
    assert len(response.jobs[0].labels) == 11


async def watch_job(filled: FilledPlatform) -> None:
    for job_id in filled.job_ids[:2]:
        for encoding in ENCODINGS:
            request = js.WatchJobRequest(job_id=job_id, data_encoding=encoding, include_job=True)
            events = await filled.events("WatchJob", request, 10)
            assert [event.seq for event in events] == list(range(1, 11))


async def watch_jobs(filled: FilledPlatform) -> None:
    for encoding in ENCODINGS:
        request = js.WatchJobsRequest(
            cursor=filled.cursor,
            data_encoding=encoding,
            filter=js.JobFilter(job_ids=filled.job_ids[:2]),
        )
        assert len(await filled.events("WatchJobs", request, 20)) == 20


async def submit_and_watch(filled: FilledPlatform) -> None:
    for document in (NUMBERS, TEXT):
        request = js.SubmitAndWatchRequest(
            job=largest_job(document), request_id=f"key{len(document)}", include_job=True
        )
        assert (await filled.events("SubmitAndWatch", request, 10))[-1].state == JOB_STATE_SUCCEEDED


async def submit_job(filled: FilledPlatform) -> None:
    # The fixture has already submitted these jobs, so the submit returns an existing job.
    request = js.SubmitJobRequest(job=largest_job(TEXT), request_id=f"key{len(TEXT)}")
    assert (await filled.call("SubmitJob", request)).job.state == JOB_STATE_SUCCEEDED


async def submit_jobs(filled: FilledPlatform) -> None:
    existing = js.SubmitJobsEntry(
        request=js.SubmitJobRequest(job=largest_job(TEXT), request_id=f"key{len(TEXT)}")
    )
    bad_labels = {f"Bad {number:059}": "\0" for number in range(11)}
    invalid = js.SubmitJobsEntry(
        request=js.SubmitJobRequest(job=JobSpec(type="T" * 100, queue="Q" * 100, labels=bad_labels))
    )
    for entry in (existing, invalid):
        # A request is smaller than its limit.
        count = min(256, 3 * MIB // entry.ByteSize())
        request = js.SubmitJobsRequest(entries=[entry] * count)
        response = await filled.call("SubmitJobs", request)
        assert len(response.results) == count
    response = await filled.call("SubmitJobs", js.SubmitJobsRequest(entries=[existing]))
    assert not response.reduced


async def retry_and_cancel(filled: FilledPlatform) -> None:
    job_id = filled.job_ids[2]
    retried = await filled.call("RetryJob", js.RetryJobRequest(job_id=job_id))
    cancelled = await filled.call("CancelJob", js.CancelJobRequest(job_id=job_id))
    assert len(retried.job.labels) == len(cancelled.job.labels) == MAX_LABELS


async def get_stats(filled: FilledPlatform) -> None:
    async with filled.database.transaction() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        await connection.execute(
            text("""
                INSERT INTO jobs (id, tenant, type, queue, payload, priority, labels, state, rank,
                    create_time, due_time, queue_time, update_time)
                SELECT gen_random_uuid(), 'default', lpad(n::text, 100, 't'),
                    lpad(n::text, 100, 'q'), '{}', 0, '{}', 'queued', 0, now(), now(), now(), now()
                FROM generate_series(1, 25000) n
            """)
        )
    response = await filled.call("GetStats", js.GetStatsRequest())
    assert response.omitted_queues > 10_000
    assert response.omitted_types > 10_000
    names = [queue.queue for queue in response.queues]
    assert names == sorted(names)
    # The response lists only the queues and types with the most jobs.
    assert "q" in names


async def monitor(filled: FilledPlatform) -> None:
    # `get_stats` has added 25,000 queues.
    async with filled.database.transaction() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        await connection.execute(
            text("""
                INSERT INTO workers (id, tenant, name, pool, queues, slots, start_time,
                    heartbeat_time, lease_expire_time)
                SELECT gen_random_uuid(), 'default', repeat('n', 200), 'large',
                    ARRAY(SELECT lpad(q::text, 100, 'q') FROM generate_series(1, 200) q), 100,
                    now(), now(), now() + interval '1 hour'
                FROM generate_series(1, 300)
            """)
        )
        await connection.execute(
            text("""
                INSERT INTO jobs (id, tenant, type, queue, payload, priority, labels, state, rank,
                    create_time, due_time, queue_time, update_time, worker_id, start_time, attempt)
                SELECT gen_random_uuid(), 'default', repeat('t', 100), repeat('q', 100), '{}', 0,
                    '{}', 'running', 0, now(), now(), now(), now(), w.id, now(), 1
                FROM workers w, generate_series(1, 100) WHERE w.pool = 'large'
            """)
        )
    for name, request in (
        ("ListWorkers", ms.ListWorkersRequest(page_size=1000)),
        ("ListQueues", ms.ListQueuesRequest(page_size=1000)),
    ):
        pages = 0
        while pages < 3:
            response = await filled.call(name, request)
            request.page_token = response.next_page_token
            pages += 1
            if not request.page_token:
                break
        assert pages > 1, name
    stream = filled.monitor.WatchOverview(ms.WatchOverviewRequest(), timeout=TIMEOUT)
    while not (response := await stream.read()).HasField("overview"):
        pass
    stream.cancel()
    assert len(response.overview.queues) == 1000
    assert response.overview.omitted_queues > 20_000
    history = ms.GetHistoryRequest(range=Duration(seconds=1500 * 60), step=Duration(seconds=60))
    assert len((await filled.call("GetHistory", history)).points) == 1500
    filled.sizes["WatchOverview"] = [response.ByteSize()]


async def list_handlers(filled: FilledPlatform) -> None:
    for encoding in ENCODINGS:
        seen, token = [], ""
        while True:
            request = hs.ListHandlersRequest(data_encoding=encoding, page_token=token)
            page = await filled.call("ListHandlers", request)
            seen += [handler.type for handler in page.handlers]
            token = page.next_page_token
            if not token:
                break
        assert seen == [f"t{number}" for number in range(8)]


async def api_keys(filled: FilledPlatform) -> None:
    await filled.call("WhoAmI", acs.WhoAmIRequest())
    request = acs.CreateApiKeyRequest(
        principal="\U00010000" * 128,
        scope=[f"label:{number:063}={LONGEST_LABEL}" for number in range(64)],
    )
    key_ids = [(await filled.call("CreateApiKey", request)).api_key.id for _ in range(60)]
    seen, token = [], ""
    while True:
        page = await filled.call(
            "ListApiKeys", acs.ListApiKeysRequest(page_size=1000, page_token=token)
        )
        seen += [key.id for key in page.api_keys]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(key_ids)
    await filled.call("RevokeApiKey", acs.RevokeApiKeyRequest(id=key_ids[0]))
    labels = {"user": LONGEST_LABEL[:100]}
    await filled.call("MintWatchToken", acs.MintWatchTokenRequest(labels=labels))


async def audit_log(filled: FilledPlatform) -> None:
    entry = AuditEntry(
        tenant="default",
        **dict.fromkeys(("principal", "credential", "method", "target"), "\U00010000" * 500),
    )
    async with filled.database.transaction() as connection:
        await record_audit(connection, *[entry] * 600)
    seen, token = [], ""
    while True:
        page = await filled.call(
            "ListAuditEvents", aus.ListAuditEventsRequest(page_size=1000, page_token=token)
        )
        seen += [event.seq for event in page.events]
        token = page.next_page_token
        if not token:
            break
    assert seen == list(range(len(seen), 0, -1))
    await filled.call("GetAuditSettings", aus.GetAuditSettingsRequest())
    await filled.call(
        "UpdateAuditSettings", aus.UpdateAuditSettingsRequest(settings=aus.AuditSettings())
    )


async def users(filled: FilledPlatform) -> None:
    scope = [f"label:{number:063}={LONGEST_LABEL}" for number in range(64)]
    names = [f"{number:0128}" for number in range(60)]
    for name in names:
        await filled.call("CreateUser", us.CreateUserRequest(name=name, scope=scope))
    seen, token = [], ""
    while True:
        page = await filled.call("ListUsers", us.ListUsersRequest(page_size=1000, page_token=token))
        seen += [user.name for user in page.users]
        token = page.next_page_token
        if not token:
            break
    assert seen == names
    request = us.UpdateUserRequest(name=names[0], password="")
    password = (await filled.call("UpdateUser", request)).password
    login = ses.LoginRequest(username=names[0], password=password)
    tokens = (await filled.call("Login", login)).tokens
    refresh = ses.RefreshSessionRequest(refresh_token=tokens.refresh_token)
    tokens = (await filled.call("RefreshSession", refresh)).tokens
    await filled.call("Logout", ses.LogoutRequest(refresh_token=tokens.refresh_token))
    await filled.call("DeleteUser", us.DeleteUserRequest(name=names[0]))
    # This call needs access control; its response has no fields.
    assert not ses.ChangePasswordResponse.DESCRIPTOR.fields
    filled.sizes["ChangePassword"] = [0]


async def certificate_bindings(filled: FilledPlatform) -> None:
    request = acs.CreateCertificateBindingRequest(
        principal="\U00010000" * 128,
        scope=[f"label:{number:063}={LONGEST_LABEL}" for number in range(64)],
    )
    binding_ids = []
    for number in range(60):
        request.san = f"uri:test:{number:02}".ljust(2052, "x")
        response = await filled.call("CreateCertificateBinding", request)
        binding_ids.append(response.certificate_binding.san)
    seen, token = [], ""
    while True:
        page = await filled.call(
            "ListCertificateBindings",
            acs.ListCertificateBindingsRequest(page_size=1000, page_token=token),
        )
        seen += [binding.san for binding in page.certificate_bindings]
        token = page.next_page_token
        if not token:
            break
    assert seen == binding_ids
    await filled.call(
        "DeleteCertificateBinding", acs.DeleteCertificateBindingRequest(san=binding_ids[0])
    )


async def tenants(filled: FilledPlatform) -> None:
    largest = dict.fromkeys(ts.Quotas.DESCRIPTOR.fields_by_name, 2**53)
    quotas = ts.Quotas(**largest)
    async with filled.database.transaction() as connection:
        await connection.execute(
            text("""
                INSERT INTO tenants (name, quotas, ceilings)
                SELECT lpad(n::text, 100, '0'), CAST(:quotas AS jsonb), CAST(:quotas AS jsonb)
                FROM generate_series(1, 998) n
            """),
            {"quotas": json.dumps(largest)},
        )
    name = "t" * 100
    request = ts.CreateTenantRequest(name=name, quotas=quotas, ceilings=quotas)
    await filled.call("CreateTenant", request)
    page = await filled.call("ListTenants", ts.ListTenantsRequest(page_size=1000))
    assert len(page.tenants) == 1000
    await filled.call("SetQuotas", ts.SetQuotasRequest(name=name, quotas=quotas))
    await filled.call("GetUsage", ts.GetUsageRequest(name=name))
    await filled.call("SuspendTenant", ts.SuspendTenantRequest(name=name))
    await filled.call("ResumeTenant", ts.ResumeTenantRequest(name=name))
    await filled.call("DeleteTenant", ts.DeleteTenantRequest(name=name))
    await filled.call("GetTenant", ts.GetTenantRequest(name=name))


async def subscriptions(filled: FilledPlatform) -> None:
    largest = js.JobFilter(
        queues=[f"{number:0100}" for number in range(1000)],
        types=[f"{number:0100}" for number in range(1000)],
        labels={f"{number:063}": LONGEST_LABEL for number in range(1000)},
        job_ids=[f"0199c2a0-5b1e-7c3d-9a41-{number:012}" for number in range(10_000)],
    )
    names = [f"s{number}" for number in range(4)]
    for name in names:
        request = ss.CreateSubscriptionRequest(name=name, filter=largest)
        await filled.call("CreateSubscription", request)
    await filled.call("GetSubscription", ss.GetSubscriptionRequest(name="s0"))
    seen, token = [], ""
    while True:
        request = ss.ListSubscriptionsRequest(page_token=token, page_size=1000)
        page = await filled.call("ListSubscriptions", request)
        seen += [subscription.name for subscription in page.subscriptions]
        token = page.next_page_token
        if not token:
            break
    assert seen == names
    for name in names:
        await filled.call("DeleteSubscription", ss.DeleteSubscriptionRequest(name=name))


async def watch_subscription(filled: FilledPlatform) -> None:
    request = ss.CreateSubscriptionRequest(
        name="all", cursor=filled.cursor, filter=js.JobFilter(job_ids=filled.job_ids[:2])
    )
    await filled.call("CreateSubscription", request)
    call = filled.subscriptions.WatchSubscription(ss.WatchSubscriptionRequest(name="all"))
    while not (response := await call.read()).events:
        pass
    call.cancel()
    await filled.call(
        "AckSubscription", ss.AckSubscriptionRequest(name="all", cursor=response.cursor)
    )
    watch = ss.WatchSubscriptionRequest(name="all", consumer="one")
    assert await filled.events("WatchSubscription", watch, 20 - len(response.events))
    await filled.call("DeleteSubscription", ss.DeleteSubscriptionRequest(name="all"))


@dataclass
class RpcSizes:
    """The function that calls an RPC, and the minimum size of the largest response."""

    measure: Callable[[FilledPlatform], object]
    at_least: int = 0


MIB = 2**20
# The order matters: the first calls read the values that the fixture wrote.
SIZES_BY_RPC = {
    "GetJob": RpcSizes(get_job, 3 * MIB),
    "ListJobs": RpcSizes(list_jobs, 3 * MIB),
    "ListJobEvents": RpcSizes(list_job_events, 2 * MIB),
    "ListJobOutput": RpcSizes(list_job_output, 2 * MIB),
    "ListJobLogs": RpcSizes(job_logs, MIB),
    "WatchJobLogs": RpcSizes(job_logs, MIB),
    "WatchJob": RpcSizes(watch_job, MIB),
    "WatchJobs": RpcSizes(watch_jobs, MIB),
    "WatchSubscription": RpcSizes(watch_subscription, MIB),
    "AckSubscription": RpcSizes(watch_subscription),
    "SubmitAndWatch": RpcSizes(submit_and_watch, MIB),
    "SubmitJob": RpcSizes(submit_job, 250_000),
    "RetryJob": RpcSizes(retry_and_cancel, 250_000),
    "CancelJob": RpcSizes(retry_and_cancel, 250_000),
    "SubmitJobs": RpcSizes(submit_jobs, 250_000),
    "BatchSubmitJobs": RpcSizes(batch_submit, 100_000),
    "GetStats": RpcSizes(get_stats, MIB),
    "ListHandlers": RpcSizes(list_handlers, 2 * MIB),
    "CreateSubscription": RpcSizes(subscriptions, MIB),
    "GetSubscription": RpcSizes(subscriptions, MIB),
    "ListSubscriptions": RpcSizes(subscriptions, MIB),
    "DeleteSubscription": RpcSizes(subscriptions),
    "WhoAmI": RpcSizes(api_keys),
    "CreateApiKey": RpcSizes(api_keys, 60_000),
    "ListApiKeys": RpcSizes(api_keys, 2 * MIB),
    "RevokeApiKey": RpcSizes(api_keys, 60_000),
    "ListAuditEvents": RpcSizes(audit_log, 2 * MIB),
    "GetAuditSettings": RpcSizes(audit_log),
    "UpdateAuditSettings": RpcSizes(audit_log),
    "CreateUser": RpcSizes(users, 60_000),
    "ListUsers": RpcSizes(users, 2 * MIB),
    "UpdateUser": RpcSizes(users, 60_000),
    "DeleteUser": RpcSizes(users),
    "Login": RpcSizes(users, 60_000),
    "RefreshSession": RpcSizes(users),
    "Logout": RpcSizes(users),
    "ChangePassword": RpcSizes(users),
    "CreateCertificateBinding": RpcSizes(certificate_bindings, 60_000),
    "ListCertificateBindings": RpcSizes(certificate_bindings, 2 * MIB),
    "DeleteCertificateBinding": RpcSizes(certificate_bindings, 60_000),
    "CreateTenant": RpcSizes(tenants, 200),
    "GetTenant": RpcSizes(tenants, 200),
    "ListTenants": RpcSizes(tenants, 200_000),
    "SuspendTenant": RpcSizes(tenants, 200),
    "ResumeTenant": RpcSizes(tenants, 200),
    "DeleteTenant": RpcSizes(tenants, 200),
    "SetQuotas": RpcSizes(tenants, 200),
    "GetUsage": RpcSizes(tenants, 50),
    "MintWatchToken": RpcSizes(api_keys),
    "ListWorkers": RpcSizes(monitor, 2 * MIB),
    "ListQueues": RpcSizes(monitor, 100_000),
    "GetHistory": RpcSizes(monitor, 10_000),
    "WatchOverview": RpcSizes(monitor, 100_000),
}


def test_every_rpc_has_a_row_in_the_size_table() -> None:
    assert {method.name for service in SERVICE_DESCRIPTORS for method in service.methods} == set(
        SIZES_BY_RPC
    )


async def test_every_response_fits_a_default_client(filled: FilledPlatform) -> None:
    for measure in dict.fromkeys(row.measure for row in SIZES_BY_RPC.values()):
        # The channel has gRPC's default limit, so an oversized response fails here.
        await measure(filled)
    largest = {name: max(filled.sizes[name]) for name in SIZES_BY_RPC}
    assert max(largest.values()) <= MAX_RESPONSE_BYTES
    # Small responses would prove nothing.
    small_batch = {
        name: largest[name] for name, row in SIZES_BY_RPC.items() if largest[name] < row.at_least
    }
    assert not small_batch

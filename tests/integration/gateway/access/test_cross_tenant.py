"""The cross-tenant matrix: no RPC reads, changes or reveals anything of another tenant.

Each case sends one foreign id, cursor, token, name, key or filter. A test fails until every RPC,
and every request field that can name something stored, has a case.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

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
from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JOB_VIEW_FULL, JobSpec
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from headrace.v1.user_service_pb2_grpc import UserServiceStub
from headrace_core.domain.access import Role, Scope
from headrace_core.domain.handler import HandlerSpec
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.certificates import create_binding
from headrace_core.store.sql.database import Database
from headrace_gateway.grpc.server import SERVICE_DESCRIPTORS
from headrace_gateway.service import Gateway
from support import workers
from support.access import Metadata, add_tenant, caller
from support.gateway import TIMEOUT, FakeWorker, read_error

OURS, THEIRS = "ours", "theirs"
# A text that all data of the other tenant contains: payload, labels, queue, names.
MARKER = "foreign-secret"
REQUEST_ID = f"{MARKER}-order-17"
SAN = f"dns:{MARKER}"
NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@dataclass
class Foreign:
    """The data of the other tenant that a request can name."""

    job_id: str = ""
    ended_job_id: str = ""
    batch_id: str = ""
    cursor: str = ""
    subscription_cursor: str = ""
    page_token: str = ""
    key_id: str = ""
    key_secret: str = ""
    password: str = ""

    def values(self) -> list[str]:
        jobs = [self.job_id, self.ended_job_id, self.batch_id]
        return [*jobs, self.key_id, self.key_secret, self.password]


@dataclass(frozen=True)
class Case:
    """A request that names foreign data, and the expected status.

    Attributes:
        rpc: the path of the RPC.
        field: the field that names foreign data; `message.field` for a nested one.
        build: builds the request.
        code: the expected status; with OK, the response must contain no foreign data.
    """

    rpc: str
    field: str
    build: Callable[[Foreign], Message]
    code: grpc.StatusCode = grpc.StatusCode.OK


def jobs(rpc: str, field: str, build: Callable[[Foreign], Message], code: grpc.StatusCode) -> Case:
    return Case(f"JobService.{rpc}", field, build, code)


def subscriptions(
    rpc: str, field: str, build: Callable[[Foreign], Message], code: grpc.StatusCode
) -> Case:
    return Case(f"SubscriptionService.{rpc}", field, build, code)


def tenants(
    rpc: str, field: str, build: Callable[[Foreign], Message], code: grpc.StatusCode
) -> Case:
    return Case(f"TenantService.{rpc}", field, build, code)


OK = grpc.StatusCode.OK
SPEC = JobSpec(type="test", queue="mine")
CASES = [
    jobs("GetJob", "job_id", lambda f: js.GetJobRequest(job_id=f.job_id), NOT_FOUND),
    jobs("CancelJob", "job_id", lambda f: js.CancelJobRequest(job_id=f.job_id), NOT_FOUND),
    jobs("RetryJob", "job_id", lambda f: js.RetryJobRequest(job_id=f.ended_job_id), NOT_FOUND),
    jobs("ListJobEvents", "job_id", lambda f: js.ListJobEventsRequest(job_id=f.job_id), NOT_FOUND),
    jobs("ListJobOutput", "job_id", lambda f: js.ListJobOutputRequest(job_id=f.job_id), NOT_FOUND),
    jobs("ListJobLogs", "job_id", lambda f: js.ListJobLogsRequest(job_id=f.job_id), NOT_FOUND),
    jobs("WatchJobLogs", "job_id", lambda f: js.WatchJobLogsRequest(job_id=f.job_id), NOT_FOUND),
    jobs("WatchJob", "job_id", lambda f: js.WatchJobRequest(job_id=f.job_id), NOT_FOUND),
    jobs("ListJobs", "page_token", lambda f: js.ListJobsRequest(page_token=f.page_token), INVALID),
    *(
        jobs("ListJobs", "filter", lambda f, build=build: js.ListJobsRequest(filter=build(f)), OK)
        for build in (
            lambda f: f'id = "{f.job_id}"',
            lambda f: f'batch_id = "{f.batch_id}"',
            lambda _: f'request_id = "{REQUEST_ID}"',
            lambda _: f'labels.owner = "{MARKER}"',
            lambda _: f'queue = "{MARKER}"',
            lambda _: "",
        )
    ),
    jobs(
        "SubmitJob",
        "request_id",
        lambda _: js.SubmitJobRequest(job=SPEC, request_id=REQUEST_ID),
        OK,
    ),
    jobs(
        "SubmitJobs",
        "entries",
        lambda _: js.SubmitJobsRequest(
            entries=[
                js.SubmitJobsEntry(
                    request=js.SubmitJobRequest(job=SPEC, request_id=f"{REQUEST_ID}-entry")
                )
            ]
        ),
        OK,
    ),
    jobs(
        "SubmitAndWatch",
        "request_id",
        lambda _: js.SubmitAndWatchRequest(job=SPEC, request_id=f"{REQUEST_ID}-watched"),
        OK,
    ),
    jobs(
        "BatchSubmitJobs",
        "request_id",
        lambda _: js.BatchSubmitJobsRequest(jobs=[SPEC], request_id=REQUEST_ID),
        OK,
    ),
    jobs("WatchJobs", "cursor", lambda f: js.WatchJobsRequest(cursor=f.cursor), INVALID),
    *(
        jobs(
            "WatchJobs",
            f"filter.{name}",
            lambda f, build=build: js.WatchJobsRequest(filter=build(f)),
            OK,
        )
        for name, build in {
            "queues": lambda _: js.JobFilter(queues=[MARKER]),
            "types": lambda _: js.JobFilter(types=["test"]),
            "labels": lambda _: js.JobFilter(labels={"owner": MARKER}),
            "batch_id": lambda f: js.JobFilter(batch_id=f.batch_id),
            "job_ids": lambda f: js.JobFilter(job_ids=[f.job_id]),
        }.items()
    ),
    subscriptions(
        "GetSubscription", "name", lambda _: ss.GetSubscriptionRequest(name=MARKER), NOT_FOUND
    ),
    subscriptions(
        "DeleteSubscription", "name", lambda _: ss.DeleteSubscriptionRequest(name=MARKER), NOT_FOUND
    ),
    subscriptions(
        "WatchSubscription", "name", lambda _: ss.WatchSubscriptionRequest(name=MARKER), NOT_FOUND
    ),
    subscriptions(
        "AckSubscription",
        "name",
        lambda f: ss.AckSubscriptionRequest(name=MARKER, cursor=f.subscription_cursor),
        INVALID,
    ),
    subscriptions(
        "AckSubscription",
        "cursor",
        lambda f: ss.AckSubscriptionRequest(name="mine", cursor=f.subscription_cursor),
        INVALID,
    ),
    subscriptions(
        "CreateSubscription",
        "cursor",
        lambda f: ss.CreateSubscriptionRequest(name="new", cursor=f.cursor),
        INVALID,
    ),
    subscriptions(
        "CreateSubscription",
        "name",
        # Names are unique within a tenant, so the name of a foreign subscription is free.
        lambda _: ss.CreateSubscriptionRequest(name=MARKER, filter=js.JobFilter(queues=["mine"])),
        OK,
    ),
    subscriptions(
        "ListSubscriptions",
        "page_token",
        lambda f: ss.ListSubscriptionsRequest(page_token=f.page_token),
        INVALID,
    ),
    Case(
        "HandlerService.ListHandlers",
        "page_token",
        lambda f: hs.ListHandlersRequest(page_token=f.page_token),
        INVALID,
    ),
    Case("HandlerService.ListHandlers", "", lambda _: hs.ListHandlersRequest()),
    jobs("GetStats", "", lambda _: js.GetStatsRequest(), OK),
    Case(
        "AccessService.RevokeApiKey",
        "id",
        lambda f: acs.RevokeApiKeyRequest(id=f.key_id),
        NOT_FOUND,
    ),
    Case("AccessService.ListApiKeys", "", lambda _: acs.ListApiKeysRequest()),
    Case(
        "AccessService.ListApiKeys",
        "page_token",
        lambda f: acs.ListApiKeysRequest(page_token=f.page_token),
        INVALID,
    ),
    Case("AccessService.WhoAmI", "", lambda _: acs.WhoAmIRequest()),
    Case("AuditService.GetAuditSettings", "", lambda _: aus.GetAuditSettingsRequest()),
    Case("AuditService.ListAuditEvents", "", lambda _: aus.ListAuditEventsRequest()),
    Case(
        "AuditService.ListAuditEvents",
        "principal",
        lambda _: aus.ListAuditEventsRequest(principal=MARKER),
    ),
    Case(
        "AuditService.ListAuditEvents",
        "method",
        lambda _: aus.ListAuditEventsRequest(method="AccessService/"),
    ),
    Case(
        "AuditService.ListAuditEvents",
        "page_token",
        lambda f: aus.ListAuditEventsRequest(page_token=f.page_token),
        INVALID,
    ),
    # Only principals of the platform bind certificates.
    Case(
        "AccessService.CreateCertificateBinding",
        "san",
        lambda _: acs.CreateCertificateBindingRequest(san=SAN, principal="p"),
        DENIED,
    ),
    Case(
        "AccessService.DeleteCertificateBinding",
        "san",
        lambda _: acs.DeleteCertificateBindingRequest(san=SAN),
        DENIED,
    ),
    Case(
        "AccessService.ListCertificateBindings", "", lambda _: acs.ListCertificateBindingsRequest()
    ),
    Case(
        "AccessService.ListCertificateBindings",
        "page_token",
        lambda f: acs.ListCertificateBindingsRequest(page_token=f.page_token),
        INVALID,
    ),
    # The tenant of a new key is the tenant of the call; no field names another one.
    Case(
        "AccessService.CreateApiKey",
        "scope",
        lambda f: acs.CreateApiKeyRequest(principal="p", scope=[f"job:{f.job_id}"]),
    ),
    # Each caller has its own request ids.
    Case(
        "AccessService.CreateApiKey",
        "request_id",
        lambda _: acs.CreateApiKeyRequest(principal=MARKER, request_id=REQUEST_ID),
    ),
    Case(
        "UserService.CreateUser",
        "request_id",
        lambda _: us.CreateUserRequest(name=MARKER, request_id=REQUEST_ID),
    ),
    # A watch token is limited to the tenant of the call; minting reads none of the named data.
    *(
        Case("AccessService.MintWatchToken", field, build)
        for field, build in {
            "job_id": lambda f: acs.MintWatchTokenRequest(job_id=f.job_id),
            "batch_id": lambda f: acs.MintWatchTokenRequest(batch_id=f.batch_id),
            "labels": lambda _: acs.MintWatchTokenRequest(labels={"owner": MARKER}),
        }.items()
    ),
    # A user exists only in its own tenant.
    *(
        Case(
            "SessionService.Login",
            field,
            lambda f: ses.LoginRequest(username=MARKER, password=f.password, tenant=OURS),
            UNAUTHENTICATED,
        )
        for field in ("username", "password", "tenant")
    ),
    # Names are unique within a tenant, so the name of a foreign user is free.
    Case("UserService.CreateUser", "name", lambda _: us.CreateUserRequest(name=MARKER)),
    Case("UserService.ListUsers", "", lambda _: us.ListUsersRequest()),
    Case(
        "UserService.ListUsers",
        "page_token",
        lambda f: us.ListUsersRequest(page_token=f.page_token),
        INVALID,
    ),
    Case(
        "UserService.UpdateUser",
        "name",
        lambda _: us.UpdateUserRequest(name=MARKER, disabled=True),
        NOT_FOUND,
    ),
    Case("UserService.DeleteUser", "name", lambda _: us.DeleteUserRequest(name=MARKER), NOT_FOUND),
    Case("MonitorService.ListWorkers", "", lambda _: ms.ListWorkersRequest()),
    Case(
        "MonitorService.ListWorkers",
        "page_token",
        lambda f: ms.ListWorkersRequest(page_token=f.page_token),
        INVALID,
    ),
    Case("MonitorService.GetHistory", "queue", lambda _: ms.GetHistoryRequest(queue=MARKER)),
    Case("MonitorService.GetHistory", "type", lambda _: ms.GetHistoryRequest(type="test")),
    Case("MonitorService.WatchOverview", "", lambda _: ms.WatchOverviewRequest()),
    Case("MonitorService.ListQueues", "", lambda _: ms.ListQueuesRequest()),
    Case(
        "MonitorService.ListQueues",
        "page_token",
        lambda f: ms.ListQueuesRequest(page_token=f.page_token),
        INVALID,
    ),
    tenants("GetTenant", "name", lambda _: ts.GetTenantRequest(name=THEIRS), NOT_FOUND),
    tenants("GetUsage", "name", lambda _: ts.GetUsageRequest(name=THEIRS), NOT_FOUND),
    tenants("SetQuotas", "name", lambda _: ts.SetQuotasRequest(name=THEIRS), NOT_FOUND),
    # Only the platform may call the other RPCs.
    tenants("CreateTenant", "name", lambda _: ts.CreateTenantRequest(name=THEIRS), DENIED),
    tenants("SuspendTenant", "name", lambda _: ts.SuspendTenantRequest(name=THEIRS), DENIED),
    tenants("ResumeTenant", "name", lambda _: ts.ResumeTenantRequest(name=THEIRS), DENIED),
    tenants("DeleteTenant", "name", lambda _: ts.DeleteTenantRequest(name=THEIRS), DENIED),
    tenants(
        "ListTenants",
        "page_token",
        lambda f: ts.ListTenantsRequest(page_token=f.page_token),
        DENIED,
    ),
]

# Fields of requests that name nothing stored: new values, or names within the tenant of the call.
PLAIN = {
    *("SubmitJob.job", "SubmitAndWatch.job", "BatchSubmitJobs.jobs"),
    *("CreateSubscription.filter", "CreateApiKey.principal", "WatchSubscription.consumer"),
    *("CancelJob.reason", "RetryJob.reason", "UpdateAuditSettings.settings"),
    *("CreateUser.scope", "CreateUser.password", "UpdateUser.scope", "UpdateUser.password"),
    # The credential of a session names its own tenant.
    *("RefreshSession.refresh_token", "Logout.refresh_token"),
    *("ChangePassword.current_password", "ChangePassword.new_password"),
    *("CreateCertificateBinding.principal", "CreateCertificateBinding.scope"),
    *("CreateTenant.quotas", "CreateTenant.ceilings", "SetQuotas.quotas", "SetQuotas.ceilings"),
}


def rpc_methods() -> dict[str, MethodDescriptor]:
    return {
        f"{service.name}.{method.name}": method
        for service in SERVICE_DESCRIPTORS
        for method in service.methods
    }


def naming_fields(method: MethodDescriptor) -> set[str]:
    """Return the fields of a request that can name something stored, without its filter."""
    return {
        field.name
        for field in method.input_type.fields
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
        or (field.message_type is not None and field.message_type.full_name.startswith("headrace"))
    }


def test_every_rpc_and_every_naming_field_has_a_case() -> None:
    tested_fields: dict[str, set[str]] = {}
    for case in CASES:
        tested_fields.setdefault(case.rpc, set()).add(case.field.partition(".")[0])
    missing = {
        f"{rpc.partition('.')[2]}.{field}"
        for rpc, method in rpc_methods().items()
        for field in (naming_fields(method) or {""})
        if field not in tested_fields.get(rpc, set())
    }
    assert missing - PLAIN == set()
    filters = {case.field for case in CASES if case.rpc == "JobService.WatchJobs"}
    states = {"filter.states"}
    assert {f"filter.{field.name}" for field in js.JobFilter.DESCRIPTOR.fields} - states <= filters


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def gateway(settings: Settings, database: Database) -> AsyncIterator[Gateway]:
    for tenant in (OURS, THEIRS):
        await add_tenant(database, tenant)
    gateway = Gateway(settings)
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
async def ours(database: Database) -> Metadata:
    return await caller(database, Role.ADMIN, "payload:read", tenant=OURS)


@pytest.fixture
async def foreign(channel: grpc.aio.Channel, database: Database) -> Foreign:
    """The other tenant, with data of each kind."""
    theirs = await caller(database, Role.ADMIN, "payload:read", tenant=THEIRS)
    api, access = JobServiceStub(channel), AccessServiceStub(channel)
    subscription_api = SubscriptionServiceStub(channel)
    foreign = Foreign()
    worker = FakeWorker(database)
    worker.id = await workers.register(
        database, HandlerSpec(type="test", queue="q", description=MARKER), tenant=THEIRS
    )
    await subscription_api.CreateSubscription(
        ss.CreateSubscriptionRequest(name=MARKER), metadata=theirs
    )
    stream = api.WatchJobs(js.WatchJobsRequest(), metadata=theirs)
    foreign.cursor = (await stream.read()).cursor
    stream.cancel()
    spec = JobSpec(
        type="test",
        queue=MARKER,
        labels={"owner": MARKER},
        payload=Data(json=f'"{MARKER}"'.encode()),
    )
    submit = js.SubmitJobRequest(job=spec, request_id=REQUEST_ID)
    foreign.job_id = (await api.SubmitJob(submit, metadata=theirs)).job.id
    submit = js.SubmitJobRequest(job=spec, request_id=f"{REQUEST_ID}-watched")
    foreign.ended_job_id = (await api.SubmitJob(submit, metadata=theirs)).job.id
    await api.CancelJob(js.CancelJobRequest(job_id=foreign.ended_job_id), metadata=theirs)
    entry = js.SubmitJobRequest(job=spec, request_id=f"{REQUEST_ID}-entry")
    await api.SubmitJob(entry, metadata=theirs)
    batch = js.BatchSubmitJobsRequest(jobs=[spec], request_id=REQUEST_ID)
    foreign.batch_id = (await api.BatchSubmitJobs(batch, metadata=theirs)).batch_id
    page = await api.ListJobs(js.ListJobsRequest(page_size=1), metadata=theirs)
    foreign.page_token = page.next_page_token
    watch = subscription_api.WatchSubscription(
        ss.WatchSubscriptionRequest(name=MARKER), metadata=theirs
    )
    async with asyncio.timeout(TIMEOUT):
        while not (response := await watch.read()).events:
            pass
    watch.cancel()
    foreign.subscription_cursor = response.cursor
    created = await access.CreateApiKey(
        acs.CreateApiKeyRequest(principal=MARKER, request_id=REQUEST_ID), metadata=theirs
    )
    foreign.key_id, foreign.key_secret = created.api_key.id, created.secret
    user = await UserServiceStub(channel).CreateUser(
        us.CreateUserRequest(name=MARKER, request_id=REQUEST_ID), metadata=theirs
    )
    foreign.password = user.password
    async with database.transaction() as conn:
        await create_binding(
            conn,
            san=SAN,
            tenant=THEIRS,
            principal=MARKER,
            role=Role.VIEWER,
            scope=Scope(),
            created_by="test",
        )
    return foreign


def reveals(foreign: Foreign, request: Message, response: bytes) -> list[str]:
    """Return the foreign texts in a response, without those in its request."""
    known = request.SerializeToString()
    return [
        value
        for value in (MARKER, *foreign.values())
        if value.encode() in response and value.encode() not in known
    ]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.rpc.partition('.')[2]}-{case.field}"
)
async def test_foreign_name_reveals_nothing(
    case: Case, channel: grpc.aio.Channel, foreign: Foreign, ours: Metadata, database: Database
) -> None:
    method = rpc_methods()[case.rpc]
    request = case.build(foreign)
    path = f"/headrace.v1.{case.rpc.replace('.', '/')}"
    response_class = message_factory.GetMessageClass(method.output_type)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = kind(
        path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response_class.FromString,
    )(request, metadata=ours, timeout=TIMEOUT)
    api = JobServiceStub(channel)

    async def wake() -> None:
        await api.SubmitJob(js.SubmitJobRequest(job=SPEC), metadata=ours)

    try:
        if not method.server_streaming:
            received = (await call).SerializeToString()
        elif case.code is OK and case.rpc == "JobService.WatchJobs":
            # The filter matches no job of the caller, so the stream sends nothing before its idle
            # mark.
            received = (await call.read()).SerializeToString()
            await wake()
        elif case.code is OK:
            received = (await call.read()).SerializeToString()
        else:
            await call.read()
            received = b""
        code = OK
    except grpc.aio.AioRpcError as error:
        described = read_error(error)
        received = repr(described).encode()
        code = error.code()
    finally:
        call.cancel()
    assert code is case.code
    assert reveals(foreign, request, received) == []
    # The other tenant is unchanged.
    theirs = await caller(database, Role.ADMIN, "payload:read", tenant=THEIRS)
    job = await api.GetJob(
        js.GetJobRequest(job_id=foreign.job_id, view=JOB_VIEW_FULL), metadata=theirs
    )
    assert (job.job.id, job.job.seq) == (foreign.job_id, 1)
    await SubscriptionServiceStub(channel).GetSubscription(
        ss.GetSubscriptionRequest(name=MARKER), metadata=theirs
    )


async def test_stream_of_all_jobs_shows_only_the_callers_tenant(
    channel: grpc.aio.Channel, database: Database, ours: Metadata, foreign: Foreign
) -> None:
    api = JobServiceStub(channel)
    theirs = await caller(database, Role.OPERATOR, tenant=THEIRS)
    stream = api.WatchJobs(js.WatchJobsRequest(), metadata=ours)
    async with asyncio.timeout(TIMEOUT):
        await stream.read()
        spec = JobSpec(type="test", queue=MARKER)
        await api.SubmitJob(js.SubmitJobRequest(job=spec), metadata=theirs)
        own_job = (await api.SubmitJob(js.SubmitJobRequest(job=SPEC), metadata=ours)).job.id
        seen: list[str] = []
        while own_job not in seen:
            response = await stream.read()
            assert reveals(foreign, js.WatchJobsRequest(), response.SerializeToString()) == []
            seen += [event.job_id for event in response.events]
    stream.cancel()
    assert seen == [own_job]


async def test_tenant_header_of_a_foreign_tenant_is_denied(
    channel: grpc.aio.Channel, ours: Metadata, foreign: Foreign
) -> None:
    api = JobServiceStub(channel)
    call = api.GetJob(
        js.GetJobRequest(job_id=foreign.job_id),
        metadata=(*ours, ("x-headrace-tenant", THEIRS)),
    )
    with pytest.raises(grpc.aio.AioRpcError) as excinfo:
        await call
    assert excinfo.value.code() is DENIED

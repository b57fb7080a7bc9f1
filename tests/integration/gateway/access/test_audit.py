"""The audit log of a gateway: changes, denied calls and reads of payloads."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from pydantic import SecretStr

from headrace.v1.access_service_pb2 import (
    PRINCIPAL_KIND_API_KEY,
    ROLE_VIEWER,
    CreateApiKeyRequest,
    RevokeApiKeyRequest,
    WhoAmIRequest,
)
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.audit_service_pb2 import (
    AuditEvent,
    AuditSettings,
    GetAuditSettingsRequest,
    ListAuditEventsRequest,
    UpdateAuditSettingsRequest,
)
from headrace.v1.audit_service_pb2_grpc import AuditServiceStub
from headrace.v1.job_pb2 import JOB_VIEW_BASIC, JobSpec
from headrace.v1.job_service_pb2 import (
    CancelJobRequest,
    GetJobRequest,
    GetStatsRequest,
    ListJobEventsRequest,
    RetryJobRequest,
    SubmitJobRequest,
    WatchJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.access import Principal, PrincipalKind, Role
from headrace_core.domain.audit import INSTALLATION_CHAIN, AuditEntry
from headrace_core.domain.errors import Unauthenticated, Unavailable
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.audit import read_audit_chain
from headrace_core.store.sql.database import Database
from headrace_gateway.access.audit_writer import AuditWriter
from headrace_gateway.calls.authenticate import TENANT
from headrace_gateway.calls.call import Call
from headrace_gateway.service import Gateway
from support.access import Metadata, add_api_key, add_tenant, bearer, caller
from support.gateway import TIMEOUT, rpc_error


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def admin(database: Database) -> Metadata:
    return await caller(database, Role.ADMIN)


@pytest.fixture
async def platform(database: Database) -> Metadata:
    return bearer(await add_api_key(database, Role.PLATFORM, principal="root"))


@pytest.fixture
def audit(channel: grpc.aio.Channel) -> AuditServiceStub:
    return AuditServiceStub(channel)


async def list_events(
    audit: AuditServiceStub, metadata: Metadata, **fields: object
) -> list[AuditEvent]:
    """Return the events, oldest first."""
    request = ListAuditEventsRequest(**fields)
    return list((await audit.ListAuditEvents(request, metadata=metadata)).events)[::-1]


async def until_listed(
    audit: AuditServiceStub, metadata: Metadata, count: int, **fields: object
) -> list[AuditEvent]:
    """Wait for at least `count` events, which the gateway writes in groups; return them."""
    async with asyncio.timeout(TIMEOUT):
        while len(events := await list_events(audit, metadata, **fields)) < count:
            await asyncio.sleep(0.05)
    return events


async def test_changes_of_keys_are_recorded(
    access: AccessServiceStub, audit: AuditServiceStub, admin: Metadata
) -> None:
    request = CreateApiKeyRequest(principal="tv", role=ROLE_VIEWER)
    key = (await access.CreateApiKey(request, metadata=admin)).api_key
    await access.RevokeApiKey(RevokeApiKeyRequest(id=key.id), metadata=admin)
    events = await list_events(audit, admin)
    assert [(event.seq, event.method, event.target) for event in events] == [
        (1, "AccessService/CreateApiKey", f"api key {key.id} of tv"),
        (2, "AccessService/RevokeApiKey", f"api key {key.id} of tv"),
    ]
    for event in events:
        assert (event.principal, event.principal_tenant) == ("ada", "default")
        assert event.kind == PRINCIPAL_KIND_API_KEY
        assert event.credential == bearer_id(admin)
        assert (event.address, event.denied, event.count) == ("127.0.0.1", False, 1)
        assert len(event.hash) == 32


def bearer_id(metadata: Metadata) -> str:
    """Return the id of the API key in a call's metadata."""
    return metadata[0][1].removeprefix("Bearer ").split("_")[1]


async def test_address_behind_a_trusted_proxy_is_recorded(
    settings: Settings, database: Database, admin: Metadata
) -> None:
    gateway = Gateway(settings.model_copy(update={"trusted_proxies": ("127.0.0.0/8",)}))
    await gateway.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
            request = CreateApiKeyRequest(principal="tv", role=ROLE_VIEWER)
            forwarded = (*admin, ("x-forwarded-for", "198.51.100.1, 203.0.113.9"))
            await AccessServiceStub(channel).CreateApiKey(request, metadata=forwarded)
            unauthenticated = AccessServiceStub(channel).WhoAmI(
                WhoAmIRequest(), metadata=forwarded[-1:]
            )
            await rpc_error(unauthenticated)
    finally:
        await gateway.stop()
    assert [entry.address for entry in await stored_events(database, "default")] == ["203.0.113.9"]
    denied = await stored_events(database, INSTALLATION_CHAIN)
    assert [entry.address for entry in denied] == ["203.0.113.9"]


async def test_address_without_a_trusted_proxy_is_that_of_the_peer(
    access: AccessServiceStub, audit: AuditServiceStub, admin: Metadata
) -> None:
    request = CreateApiKeyRequest(principal="tv", role=ROLE_VIEWER)
    await access.CreateApiKey(request, metadata=(*admin, ("x-forwarded-for", "203.0.113.9")))
    assert [event.address for event in await list_events(audit, admin)] == ["127.0.0.1"]


async def test_rejected_change_records_no_event(
    access: AccessServiceStub, audit: AuditServiceStub, admin: Metadata
) -> None:
    await rpc_error(access.RevokeApiKey(RevokeApiKeyRequest(id="unknown"), metadata=admin))
    assert await list_events(audit, admin) == []


async def test_denied_calls_are_recorded_with_the_missing_right(
    jobs: JobServiceStub, audit: AuditServiceStub, database: Database, admin: Metadata
) -> None:
    viewer = bearer(await add_api_key(database, Role.VIEWER, principal="tv"))
    await rpc_error(jobs.RetryJob(RetryJobRequest(job_id="x"), metadata=viewer))
    await rpc_error(jobs.GetStats(GetStatsRequest(), metadata=(*viewer, (TENANT, "acme"))))
    events = await until_listed(audit, admin, 2, only_denied=True, principal="tv")
    assert sorted((event.method, event.reason) for event in events) == [
        ("JobService/GetStats", "tenants:manage"),
        ("JobService/RetryJob", "jobs:retry"),
    ]
    assert all(event.denied for event in events)


async def test_unauthenticated_calls_are_in_the_installation_log(
    jobs: JobServiceStub, audit: AuditServiceStub, platform: Metadata, admin: Metadata
) -> None:
    await rpc_error(jobs.GetStats(GetStatsRequest()))
    events = await until_listed(audit, platform, 1, installation=True)
    assert events[0].method == "JobService/GetStats"
    assert (events[0].principal, events[0].reason) == ("", "the call has no credential")
    error = await rpc_error(
        audit.ListAuditEvents(ListAuditEventsRequest(installation=True), metadata=admin)
    )
    assert error.metadata == {"right": "tenants:manage"}


async def test_operators_and_scoped_admins_cannot_read_the_log(
    audit: AuditServiceStub, database: Database
) -> None:
    for role, scope in ((Role.OPERATOR, ()), (Role.ADMIN, ("queue:mail",))):
        metadata = await caller(database, role, *scope)
        error = await rpc_error(audit.ListAuditEvents(ListAuditEventsRequest(), metadata=metadata))
        assert error.code is grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
async def acme(database: Database) -> Metadata:
    """An admin of another tenant."""
    await add_tenant(database, "acme")
    return await caller(database, Role.ADMIN, tenant="acme")


async def test_tenants_read_their_own_log(
    acme: Metadata,
    access: AccessServiceStub,
    audit: AuditServiceStub,
    platform: Metadata,
    admin: Metadata,
) -> None:
    request = CreateApiKeyRequest(principal="tv", role=ROLE_VIEWER)
    await access.CreateApiKey(request, metadata=(*platform, (TENANT, "acme")))
    events = await list_events(audit, acme)
    assert [(event.principal, event.principal_tenant) for event in events] == [("root", "default")]
    assert await list_events(audit, admin) == []


async def test_pages_continue_and_reject_other_filters(
    access: AccessServiceStub, audit: AuditServiceStub, admin: Metadata
) -> None:
    for number in range(3):
        request = CreateApiKeyRequest(principal=f"p{number}", role=ROLE_VIEWER)
        await access.CreateApiKey(request, metadata=admin)
    first = await audit.ListAuditEvents(ListAuditEventsRequest(page_size=2), metadata=admin)
    assert [event.seq for event in first.events] == [3, 2]
    token = first.next_page_token
    second = await audit.ListAuditEvents(
        ListAuditEventsRequest(page_size=2, page_token=token), metadata=admin
    )
    assert [event.seq for event in second.events] == [1]
    assert not second.next_page_token
    error = await rpc_error(
        audit.ListAuditEvents(
            ListAuditEventsRequest(page_token=token, only_denied=True), metadata=admin
        )
    )
    assert error.reason == "PAGE_TOKEN_INVALID"


async def test_payload_reads_are_recorded_if_the_tenant_enables_it(
    jobs: JobServiceStub, audit: AuditServiceStub, database: Database, admin: Metadata
) -> None:
    reader = bearer(await add_api_key(database, Role.OPERATOR, "payload:read", principal="eve"))
    without_right = bearer(await add_api_key(database, Role.OPERATOR, principal="bob"))
    job = (
        await jobs.SubmitJob(SubmitJobRequest(job=JobSpec(type="email")), metadata=reader)
    ).job.id
    await jobs.GetJob(GetJobRequest(job_id=job), metadata=reader)
    stream = jobs.WatchJobs(WatchJobsRequest(), metadata=reader)
    await stream.read()
    settings = AuditSettings(payload_reads=True)
    await audit.UpdateAuditSettings(UpdateAuditSettingsRequest(settings=settings), metadata=admin)
    with pytest.raises(grpc.aio.AioRpcError):
        # The end of the stream shows that the gateway has applied the settings.
        while await stream.read() is not grpc.aio.EOF:
            pass
    await jobs.GetJob(GetJobRequest(job_id=job), metadata=without_right)
    await jobs.GetJob(GetJobRequest(job_id=job, view=JOB_VIEW_BASIC), metadata=reader)
    await jobs.GetJob(GetJobRequest(job_id=job), metadata=reader)
    listed = await until_listed(audit, admin, 2)
    assert [(event.method, event.target, event.principal) for event in listed] == [
        ("AuditService/UpdateAuditSettings", "payload reads recorded", "ada"),
        ("JobService/GetJob", f"job {job}", "eve"),
    ]
    response = await audit.GetAuditSettings(GetAuditSettingsRequest(), metadata=admin)
    assert response.settings == settings


async def test_job_and_events_contain_their_principals(
    acme: Metadata, jobs: JobServiceStub, database: Database, platform: Metadata, admin: Metadata
) -> None:
    key = await add_api_key(database, Role.OPERATOR, tenant="acme", principal="billing")
    billing = bearer(key)
    submit = SubmitJobRequest(job=JobSpec(type="email"))
    job = (await jobs.SubmitJob(submit, metadata=billing)).job
    assert job.submitted_by == "billing"
    cancel = CancelJobRequest(job_id=job.id, reason="wrong recipient")
    await jobs.CancelJob(cancel, metadata=acme)
    retry = RetryJobRequest(job_id=job.id)
    await jobs.RetryJob(retry, metadata=(*platform, (TENANT, "acme")))
    events = (await jobs.ListJobEvents(ListJobEventsRequest(job_id=job.id), metadata=acme)).events
    assert [(event.principal, event.reason) for event in events] == [
        ("billing", ""),
        ("ada", "wrong recipient"),
        ("root (default)", ""),
    ]
    stored = (await jobs.GetJob(GetJobRequest(job_id=job.id), metadata=acme)).job
    assert stored.submitted_by == "billing"


async def stored_events(database: Database, tenant: str) -> list[AuditEntry]:
    async with database.statement() as conn:
        chain = await read_audit_chain(conn, tenant=tenant, after=0, limit=1000)
    return [event.entry for event in chain]


def note_unauthenticated_calls(writer: AuditWriter, count: int) -> None:
    """Note two denied calls from each of `count` addresses."""
    for number in range(count):
        for _ in range(2):
            writer.note_denied(
                "/headrace.v1.JobService/GetJob",
                Unauthenticated("no key"),
                call=None,
                address=f"10.0.{number // 250}.{number % 250}",
                request=None,
            )


async def test_many_unauthenticated_callers_share_an_event(database: Database) -> None:
    writer = AuditWriter(database=database)
    note_unauthenticated_calls(writer, 500)
    await writer.run_once()
    entries = await stored_events(database, INSTALLATION_CHAIN)
    assert sorted(entry.count for entry in entries) == [*[2] * 10, 980]
    assert {entry.address for entry in entries if entry.count == 980} == {"others"}
    assert writer.dropped == 0


async def test_unavailable_database_delays_events(database: Database, settings: Settings) -> None:
    unreachable_settings = settings.model_copy(
        update={"database_url": SecretStr("postgresql://x@127.0.0.1:1/x"), "database_timeout": 1}
    )
    unreachable = Database(unreachable_settings, application="test")
    writer = AuditWriter(database=unreachable)
    note_unauthenticated_calls(writer, 1)
    with pytest.raises(Unavailable):
        await writer.run_once()
    note_unauthenticated_calls(writer, 1)
    writer._database = database
    await writer.run_once()
    entries = await stored_events(database, INSTALLATION_CHAIN)
    assert [(entry.count, entry.reason) for entry in entries] == [(4, "no key")]
    await unreachable.close()


async def test_full_writer_counts_dropped_events(database: Database) -> None:
    writer = AuditWriter(database=database)
    principal = Principal.of(
        name="eve", tenant="default", kind=PrincipalKind.API_KEY, role=Role.VIEWER
    )
    call = Call(correlation_id="", principal=principal, tenant="default", method="M")
    for number in range(1010):
        writer.note_read(call, f"job {number}")
    assert writer.dropped == 10
    await writer.run_once()
    assert len(await stored_events(database, "default")) == 1000

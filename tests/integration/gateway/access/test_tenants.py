"""Tenants: who may manage them, suspension, quotas and usage."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from sqlalchemy import text

from headrace.v1 import tenant_service_pb2 as pb
from headrace.v1.access_service_pb2 import MintWatchTokenRequest, WhoAmIRequest
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import (
    BatchSubmitJobsRequest,
    GetStatsRequest,
    SubmitAndWatchRequest,
    SubmitJobRequest,
    SubmitJobsEntry,
    SubmitJobsRequest,
    WatchJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.session_service_pb2 import LoginRequest
from headrace.v1.session_service_pb2_grpc import SessionServiceStub
from headrace.v1.tenant_service_pb2_grpc import TenantServiceStub
from headrace.v1.user_service_pb2 import CreateUserRequest
from headrace.v1.user_service_pb2_grpc import UserServiceStub
from headrace_core.domain.access import Role
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from support.access import Metadata, add_tenant, bearer, caller
from support.gateway import TIMEOUT, rpc_error
from support.until import until

JOB = SubmitJobRequest(job=JobSpec(type="email"))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def tenants(database: Database, channel: grpc.aio.Channel) -> TenantServiceStub:
    return TenantServiceStub(channel)


@pytest.fixture
async def platform(database: Database) -> Metadata:
    """The metadata of a principal of the platform, in the default tenant."""
    return await caller(database, Role.PLATFORM)


@pytest.fixture
async def acme(database: Database, tenants: TenantServiceStub, platform: Metadata) -> Metadata:
    """The metadata of an admin of the new tenant `acme`."""
    await tenants.CreateTenant(pb.CreateTenantRequest(name="acme"), metadata=platform)
    admin = await caller(database, Role.ADMIN, tenant="acme")

    # The gateway reads the new tenant a moment later.
    async def known() -> bool:
        try:
            await tenants.GetTenant(pb.GetTenantRequest(), metadata=admin)
        except grpc.aio.AioRpcError:
            return False
        return True

    await until(known)
    return admin


async def limit(tenants: TenantServiceStub, admin: Metadata, **quotas: int) -> None:
    """Set quotas of the caller's tenant, and wait until the gateway enforces them."""
    new_quotas = pb.Quotas(**quotas)
    changed = await tenants.SetQuotas(pb.SetQuotasRequest(quotas=new_quotas), metadata=admin)
    assert changed.tenant.quotas == new_quotas


async def test_only_the_platform_manages_tenants(
    tenants: TenantServiceStub, acme: Metadata, platform: Metadata
) -> None:
    for call in (
        tenants.CreateTenant(pb.CreateTenantRequest(name="new"), metadata=acme),
        tenants.ListTenants(pb.ListTenantsRequest(), metadata=acme),
        tenants.SuspendTenant(pb.SuspendTenantRequest(name="acme"), metadata=acme),
        tenants.ResumeTenant(pb.ResumeTenantRequest(name="acme"), metadata=acme),
        tenants.DeleteTenant(pb.DeleteTenantRequest(name="acme"), metadata=acme),
    ):
        error = await rpc_error(call)
        assert (error.reason, error.metadata) == ("PERMISSION_DENIED", {"right": "tenants:manage"})
    listed = await tenants.ListTenants(pb.ListTenantsRequest(page_size=1), metadata=platform)
    assert [tenant.name for tenant in listed.tenants] == ["acme"]
    following = pb.ListTenantsRequest(page_token=listed.next_page_token)
    listed = await tenants.ListTenants(following, metadata=platform)
    assert [tenant.name for tenant in listed.tenants] == ["default"]


async def test_admin_sees_only_its_own_tenant(
    tenants: TenantServiceStub, acme: Metadata, platform: Metadata
) -> None:
    own = await tenants.GetTenant(pb.GetTenantRequest(), metadata=acme)
    assert (own.tenant.name, own.tenant.state) == ("acme", pb.TENANT_STATE_ACTIVE)
    for name in ("default", "missing"):
        for call in (
            tenants.GetTenant(pb.GetTenantRequest(name=name), metadata=acme),
            tenants.GetUsage(pb.GetUsageRequest(name=name), metadata=acme),
            tenants.SetQuotas(pb.SetQuotasRequest(name=name), metadata=acme),
        ):
            error = await rpc_error(call)
            assert error.reason == "ACCESS_NOT_FOUND"
            assert error.metadata == {"kind": "tenant", "name": name}
    error = await rpc_error(
        tenants.GetTenant(pb.GetTenantRequest(name="missing"), metadata=platform)
    )
    assert error.reason == "ACCESS_NOT_FOUND"


async def test_scoped_admin_cannot_see_the_whole_tenant(
    database: Database, tenants: TenantServiceStub, acme: Metadata
) -> None:
    scoped = await caller(database, Role.ADMIN, "queue:mail", tenant="acme")
    error = await rpc_error(tenants.GetUsage(pb.GetUsageRequest(), metadata=scoped))
    assert error.reason == "PERMISSION_DENIED"


async def test_name_and_quotas_of_a_new_tenant_are_validated(
    tenants: TenantServiceStub, acme: Metadata, platform: Metadata
) -> None:
    request = pb.CreateTenantRequest(
        name="No",
        quotas=pb.Quotas(waiting_jobs=-1, open_streams=9),
        ceilings=pb.Quotas(open_streams=8),
    )
    error = await rpc_error(tenants.CreateTenant(request, metadata=platform))
    assert set(error.violations) == {"name", "quotas.waiting_jobs", "quotas.open_streams"}
    error = await rpc_error(
        tenants.CreateTenant(pb.CreateTenantRequest(name="acme"), metadata=platform)
    )
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ACCESS_CONFLICT")


async def test_suspended_tenant_is_rejected_until_it_is_resumed(
    tenants: TenantServiceStub, jobs: JobServiceStub, acme: Metadata, platform: Metadata
) -> None:
    stream = jobs.WatchJobs(WatchJobsRequest(), metadata=acme)
    async with asyncio.timeout(TIMEOUT):
        await stream.read()
    suspended = await tenants.SuspendTenant(pb.SuspendTenantRequest(name="acme"), metadata=platform)
    assert suspended.tenant.state == pb.TENANT_STATE_SUSPENDED

    async def read_to_end() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    # The end of the tenant's streams shows that the gateway has read the suspension.
    assert (await rpc_error(read_to_end())).reason == "CREDENTIAL_CHANGED"
    for call in (
        jobs.GetStats(GetStatsRequest(), metadata=acme),
        jobs.SubmitJob(JOB, metadata=acme),
        tenants.GetTenant(pb.GetTenantRequest(), metadata=acme),
    ):
        error = await rpc_error(call)
        assert (error.code, error.reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "TENANT_SUSPENDED",
        )
    await tenants.ResumeTenant(pb.ResumeTenantRequest(name="acme"), metadata=platform)

    async def accepted() -> bool:
        try:
            await jobs.SubmitJob(JOB, metadata=acme)
        except grpc.aio.AioRpcError:
            return False
        return True

    await until(accepted)


async def test_platform_cannot_suspend_or_delete_itself(
    tenants: TenantServiceStub, platform: Metadata
) -> None:
    for call in (
        tenants.SuspendTenant(pb.SuspendTenantRequest(name="default"), metadata=platform),
        tenants.DeleteTenant(pb.DeleteTenantRequest(name="default"), metadata=platform),
    ):
        assert set((await rpc_error(call)).violations) == {"name"}


async def test_tenant_deletion_cannot_be_stopped(
    tenants: TenantServiceStub, acme: Metadata, platform: Metadata
) -> None:
    deleted = await tenants.DeleteTenant(pb.DeleteTenantRequest(name="acme"), metadata=platform)
    assert deleted.tenant.state == pb.TENANT_STATE_DELETING
    assert not deleted.tenant.deletion.HasField("jobs")
    error = await rpc_error(
        tenants.ResumeTenant(pb.ResumeTenantRequest(name="acme"), metadata=platform)
    )
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT")
    assert error.metadata == {"tenant": "acme", "state": "DELETING"}


async def test_credentials_of_a_deleted_tenant_are_rejected_in_a_new_one(
    channel: grpc.aio.Channel,
    database: Database,
    tenants: TenantServiceStub,
    acme: Metadata,
    platform: Metadata,
) -> None:
    access, users = AccessServiceStub(channel), UserServiceStub(channel)
    minted = await access.MintWatchToken(
        MintWatchTokenRequest(labels={"user": "42"}), metadata=acme
    )
    user = await users.CreateUser(CreateUserRequest(name="ada"), metadata=acme)
    login = await SessionServiceStub(channel).Login(
        LoginRequest(username="ada", password=user.password, tenant="acme")
    )
    old = (acme, bearer(minted.token), bearer(login.tokens.access_token))
    await tenants.DeleteTenant(pb.DeleteTenantRequest(name="acme"), metadata=platform)

    async def code(metadata: Metadata) -> grpc.StatusCode:
        try:
            await access.WhoAmI(WhoAmIRequest(), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def are_denied() -> bool:
        return {await code(one) for one in old} == {grpc.StatusCode.PERMISSION_DENIED}

    # The gateway has verified the credentials again, and cached them, while the rows exist.
    await until(are_denied)
    async with database.transaction() as conn:
        # The statements with which a scheduler removes the rows.
        for table in ("api_keys", "sessions", "users"):
            await conn.execute(text(f"DELETE FROM {table} WHERE tenant = 'acme'"))
        await conn.execute(text("DELETE FROM tenants WHERE name = 'acme'"))
    await tenants.CreateTenant(pb.CreateTenantRequest(name="acme"), metadata=platform)
    new = await caller(database, Role.ADMIN, tenant="acme")

    async def is_accepted() -> bool:
        return await code(new) is grpc.StatusCode.OK

    await until(is_accepted)
    assert [await code(one) for one in old] == [grpc.StatusCode.UNAUTHENTICATED] * 3


# Quotas.


async def test_admin_sets_quotas_up_to_the_ceilings(
    tenants: TenantServiceStub, acme: Metadata, platform: Metadata
) -> None:
    ceilings = pb.Quotas(waiting_jobs=10)
    request = pb.SetQuotasRequest(name="acme", ceilings=ceilings)
    error = await rpc_error(
        tenants.SetQuotas(pb.SetQuotasRequest(ceilings=ceilings), metadata=acme)
    )
    assert error.metadata == {"right": "tenants:manage"}
    await tenants.SetQuotas(request, metadata=platform)
    above_ceiling = pb.SetQuotasRequest(quotas=pb.Quotas(waiting_jobs=11))
    error = await rpc_error(tenants.SetQuotas(above_ceiling, metadata=acme))
    assert error.violations == {"quotas.waiting_jobs": "is 11; the ceiling is 10"}
    await limit(tenants, acme, waiting_jobs=10, open_streams=5)
    # A lower ceiling applies at once and leaves the quotas unchanged.
    ceilings = pb.Quotas(waiting_jobs=3)
    await tenants.SetQuotas(pb.SetQuotasRequest(name="acme", ceilings=ceilings), metadata=platform)
    usage = await tenants.GetUsage(pb.GetUsageRequest(), metadata=acme)
    assert usage.limits == pb.Quotas(waiting_jobs=3, open_streams=5)


async def until_refused(jobs: JobServiceStub, metadata: Metadata) -> str:
    """Submit until a quota rejects a job; return the name of the quota."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                await jobs.SubmitJob(JOB, metadata=metadata)
            except grpc.aio.AioRpcError:
                break
    error = await rpc_error(jobs.SubmitJob(JOB, metadata=metadata))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert "RetryInfo" in error.details
    return error.metadata["quota"]


@pytest.mark.parametrize("quota", ["waiting_jobs", "payload_bytes", "jobs_per_day"])
async def test_counted_quota_rejects_submits(
    tenants: TenantServiceStub, jobs: JobServiceStub, acme: Metadata, quota: str
) -> None:
    await limit(tenants, acme, **{quota: 6})
    assert await until_refused(jobs, acme) == quota
    usage = await tenants.GetUsage(pb.GetUsageRequest(), metadata=acme)
    # The gateway may have accepted jobs before it read the quota.
    assert usage.waiting_jobs >= 3
    batch = BatchSubmitJobsRequest(jobs=[JobSpec(type="email")] * 2)
    error = await rpc_error(jobs.BatchSubmitJobs(batch, metadata=acme))
    assert (error.reason, error.metadata["quota"]) == ("QUOTA_EXCEEDED", quota)


async def test_rate_quota_rejects_submits_and_submit_streams(
    tenants: TenantServiceStub, jobs: JobServiceStub, acme: Metadata
) -> None:
    await limit(tenants, acme, submits_per_second=0)
    assert await until_refused(jobs, acme) == "submits_per_second"
    request = SubmitAndWatchRequest(job=JobSpec(type="email"))
    error = await rpc_error(jobs.SubmitAndWatch(request, metadata=acme).read())
    assert error.metadata["quota"] == "submits_per_second"
    entries = SubmitJobsRequest(entries=[SubmitJobsEntry(request=JOB)] * 2)
    response = await jobs.SubmitJobs(entries, metadata=acme)
    codes = {result.error.code for result in response.results}
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]}
    # Reads are not limited.
    await jobs.GetStats(GetStatsRequest(), metadata=acme)


async def test_open_streams_are_limited_and_counted(
    tenants: TenantServiceStub, jobs: JobServiceStub, acme: Metadata, platform: Metadata
) -> None:
    # The second quota is rejected only after the gateway has read both quotas.
    await limit(tenants, acme, open_streams=1, submits_per_second=0)
    await until_refused(jobs, acme)
    stream = jobs.WatchJobs(WatchJobsRequest(), metadata=acme)
    async with asyncio.timeout(TIMEOUT):
        await stream.read()
    usage = await tenants.GetUsage(pb.GetUsageRequest(), metadata=acme)
    assert usage.open_streams == 1
    error = await rpc_error(jobs.WatchJobs(WatchJobsRequest(), metadata=acme).read())
    assert error.metadata == {"quota": "open_streams", "limit": "1", "used": "1"}
    # Another tenant is not affected.
    other = jobs.WatchJobs(WatchJobsRequest(), metadata=platform)
    async with asyncio.timeout(TIMEOUT):
        await other.read()


async def test_new_quotas_keep_open_streams(
    database: Database, tenants: TenantServiceStub, jobs: JobServiceStub, acme: Metadata
) -> None:
    await add_tenant(database, "other")
    stream = jobs.WatchJobs(WatchJobsRequest(), metadata=acme)
    async with asyncio.timeout(TIMEOUT):
        await stream.read()
    await limit(tenants, acme, submits_per_second=0)
    await until_refused(jobs, acme)
    async with asyncio.timeout(TIMEOUT):
        assert await stream.read() is not grpc.aio.EOF
    stream.cancel()

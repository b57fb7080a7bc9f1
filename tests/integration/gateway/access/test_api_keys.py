"""API keys: calls and streams with a key, and the revocation of a key."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from headrace.v1.access_service_pb2 import (
    ROLE_OPERATOR,
    ROLE_PLATFORM,
    ROLE_VIEWER,
    CreateApiKeyRequest,
    ListApiKeysRequest,
    RevokeApiKeyRequest,
    WhoAmIRequest,
)
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import GetStatsRequest, SubmitJobRequest, WatchJobsRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.access import Role
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from support.access import Metadata, bearer, caller
from support.gateway import TIMEOUT, rpc_error


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def admin(database: Database) -> Metadata:
    """The metadata of an admin of the default tenant."""
    return await caller(database, Role.ADMIN)


async def test_call_without_credential_is_unauthenticated(jobs: JobServiceStub) -> None:
    error = await rpc_error(jobs.GetStats(GetStatsRequest()))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


async def test_key_identifies_its_principal(access: AccessServiceStub, admin: Metadata) -> None:
    created = await access.CreateApiKey(
        CreateApiKeyRequest(principal="billing", role=ROLE_OPERATOR, scope=["queue:mail"]),
        metadata=admin,
    )
    me = await access.WhoAmI(WhoAmIRequest(), metadata=bearer(created.secret))
    assert (me.principal.name, me.principal.role, me.tenant) == (
        "billing",
        ROLE_OPERATOR,
        DEFAULT_TENANT,
    )
    assert me.principal.credential == created.api_key.id
    listed = await access.ListApiKeys(ListApiKeysRequest(), metadata=admin)
    assert created.api_key.id in [key.id for key in listed.api_keys]


async def test_viewer_cannot_submit(
    access: AccessServiceStub, jobs: JobServiceStub, admin: Metadata
) -> None:
    created = await access.CreateApiKey(
        CreateApiKeyRequest(principal="tv", role=ROLE_VIEWER), metadata=admin
    )
    error = await rpc_error(
        jobs.SubmitJob(SubmitJobRequest(job=JobSpec(type="email")), metadata=bearer(created.secret))
    )
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert error.metadata == {"right": "jobs:submit"}


async def test_admin_cannot_grant_more_than_its_own_rights(
    access: AccessServiceStub, admin: Metadata
) -> None:
    error = await rpc_error(
        access.CreateApiKey(CreateApiKeyRequest(principal="x", role=ROLE_PLATFORM), metadata=admin)
    )
    assert error.code is grpc.StatusCode.PERMISSION_DENIED


async def test_revocation_ends_calls_and_streams_of_the_key(
    access: AccessServiceStub, jobs: JobServiceStub, admin: Metadata
) -> None:
    created = await access.CreateApiKey(
        CreateApiKeyRequest(principal="tv", role=ROLE_VIEWER), metadata=admin
    )
    stream = jobs.WatchJobs(WatchJobsRequest(), metadata=bearer(created.secret))
    async with asyncio.timeout(TIMEOUT):
        first = await stream.read()
    await access.RevokeApiKey(RevokeApiKeyRequest(id=created.api_key.id), metadata=admin)

    async def read_to_end() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    error = await rpc_error(read_to_end())
    assert (error.code, error.reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "CREDENTIAL_CHANGED",
    )
    assert error.metadata == {"cursor": first.cursor}
    rejected = await rpc_error(jobs.GetStats(GetStatsRequest(), metadata=bearer(created.secret)))
    assert rejected.reason == "UNAUTHENTICATED"


async def test_admin_cannot_revoke_a_platform_key(
    access: AccessServiceStub, admin: Metadata, database: Database
) -> None:
    platform = await caller(database, Role.PLATFORM)
    me = await access.WhoAmI(WhoAmIRequest(), metadata=platform)
    revoke = RevokeApiKeyRequest(id=me.principal.credential)
    error = await rpc_error(access.RevokeApiKey(revoke, metadata=admin))
    assert error.code is grpc.StatusCode.PERMISSION_DENIED
    await access.WhoAmI(WhoAmIRequest(), metadata=platform)
    listed = await access.ListApiKeys(ListApiKeysRequest(), metadata=admin)
    revoked = {key.id for key in listed.api_keys if key.HasField("revoke_time")}
    assert me.principal.credential not in revoked

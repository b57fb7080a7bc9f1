"""Watch tokens: their rights and their lifetimes."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from headrace.v1.access_service_pb2 import (
    PRINCIPAL_KIND_WATCH_TOKEN,
    ROLE_VIEWER,
    MintWatchTokenRequest,
    MintWatchTokenResponse,
    WhoAmIRequest,
)
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.job_pb2 import JOB_VIEW_FULL, JobSpec
from headrace.v1.job_service_pb2 import (
    BatchSubmitJobsRequest,
    GetJobRequest,
    ListJobsRequest,
    SubmitJobRequest,
    WatchJobRequest,
    WatchJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.access import Role
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from support.access import Metadata, add_api_key, bearer, caller
from support.gateway import TIMEOUT, RpcError, rpc_error


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def operator(database: Database) -> Metadata:
    return await caller(database, Role.OPERATOR)


async def mint(
    access: AccessServiceStub, metadata: Metadata, **fields: Any
) -> MintWatchTokenResponse:
    return await access.MintWatchToken(MintWatchTokenRequest(**fields), metadata=metadata)


async def rejection(access: AccessServiceStub, metadata: Metadata, **fields: Any) -> RpcError:
    return await rpc_error(mint(access, metadata, **fields))


async def submit(jobs: JobServiceStub, metadata: Metadata, **labels: str) -> str:
    submitted = await jobs.SubmitJob(
        SubmitJobRequest(job=JobSpec(type="email", labels=labels)), metadata=metadata
    )
    return submitted.job.id


async def visible(jobs: JobServiceStub, token: str) -> set[str]:
    listed = await jobs.ListJobs(ListJobsRequest(), metadata=bearer(token))
    return {job.id for job in listed.jobs}


async def test_label_token_reads_only_matching_jobs(
    access: AccessServiceStub, jobs: JobServiceStub, operator: Metadata
) -> None:
    labeled_job = await submit(jobs, operator, user="42")
    other = await submit(jobs, operator, user="43")
    token = (await mint(access, operator, labels={"user": "42"})).token
    assert await visible(jobs, token) == {labeled_job}
    error = await rpc_error(jobs.GetJob(GetJobRequest(job_id=other), metadata=bearer(token)))
    assert error.code is grpc.StatusCode.NOT_FOUND
    stream = jobs.WatchJobs(WatchJobsRequest(), metadata=bearer(token))
    async with asyncio.timeout(TIMEOUT):
        await stream.read()
        await submit(jobs, operator, user="43")
        later = await submit(jobs, operator, user="42")
        while not (response := await stream.read()).events:
            pass
    assert {event.job_id for event in response.events} == {later}
    stream.cancel()


async def test_job_or_batch_token_reads_only_its_jobs(
    access: AccessServiceStub, jobs: JobServiceStub, operator: Metadata
) -> None:
    one = await submit(jobs, operator)
    batch = await jobs.BatchSubmitJobs(
        BatchSubmitJobsRequest(jobs=[JobSpec(type="email"), JobSpec(type="email")]),
        metadata=operator,
    )
    for fields, expected in (
        ({"job_id": one}, {one}),
        ({"batch_id": batch.batch_id}, {job.id for job in batch.jobs}),
        ({"job_id": one, "batch_id": batch.batch_id}, set()),
    ):
        token = (await mint(access, operator, **fields)).token
        assert await visible(jobs, token) == expected


async def test_token_is_a_viewer_with_the_name_of_its_minter(
    access: AccessServiceStub, operator: Metadata
) -> None:
    mint_response = await mint(access, operator, labels={"user": "42"})
    me = (await access.WhoAmI(WhoAmIRequest(), metadata=bearer(mint_response.token))).principal
    assert me == mint_response.principal
    assert (me.name, me.kind, me.role) == ("ada", PRINCIPAL_KIND_WATCH_TOKEN, ROLE_VIEWER)
    assert list(me.scope) == ["jobs:read", "label:user=42"]
    assert list(me.rights) == ["jobs:read"]


async def test_payload_requires_the_right_and_the_request(
    access: AccessServiceStub, jobs: JobServiceStub, database: Database, operator: Metadata
) -> None:
    job_id = await submit(jobs, operator)
    reader = await caller(database, Role.OPERATOR, "payload:read")
    error = await rejection(access, operator, job_id=job_id, include_payload=True)
    assert (error.reason, error.metadata) == ("PERMISSION_DENIED", {"right": "payload:read"})
    for include, withheld in ((False, True), (True, False)):
        token = (await mint(access, reader, job_id=job_id, include_payload=include)).token
        read = await jobs.GetJob(
            GetJobRequest(job_id=job_id, view=JOB_VIEW_FULL), metadata=bearer(token)
        )
        assert bool(read.job.withheld_fields) is withheld


async def test_token_is_limited_to_the_scope_of_its_minter(
    access: AccessServiceStub, jobs: JobServiceStub, database: Database, operator: Metadata
) -> None:
    outside = await submit(jobs, operator, team="b", user="42")
    inside = await submit(jobs, operator, team="a", user="42")
    limited_caller = await caller(database, Role.OPERATOR, "label:team=a")
    token = (await mint(access, limited_caller, labels={"user": "42"})).token
    assert await visible(jobs, token) == {inside}
    token = (await mint(access, limited_caller, job_id=outside)).token
    assert await visible(jobs, token) == set()
    error = await rejection(access, limited_caller, labels={"team": "b"})
    assert error.code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("role", "scope", "right"),
    [(Role.VIEWER, [], "tokens:mint"), (Role.OPERATOR, ["tokens:mint"], "jobs:read")],
)
async def test_minting_requires_both_rights(
    access: AccessServiceStub, database: Database, role: Role, scope: list[str], right: str
) -> None:
    error = await rejection(access, await caller(database, role, *scope), labels={"user": "42"})
    assert (error.reason, error.metadata) == ("PERMISSION_DENIED", {"right": right})


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "job_id"),
        ({"job_id": "42"}, "job_id"),
        ({"batch_id": "42"}, "batch_id"),
        ({"labels": {"": "42"}}, 'labels[""]'),
        ({"labels": {f"key{number}": "x" for number in range(64)}}, "labels"),
        ({"labels": {f"key{number}": "x" * 200 for number in range(40)}}, "labels"),
        ({"labels": {"user": "42"}, "lifetime": Duration(seconds=3601)}, "lifetime"),
        ({"labels": {"user": "42"}, "lifetime": Duration(seconds=-1)}, "lifetime"),
        ({"labels": {"user": "42"}, "lifetime": Duration()}, "lifetime"),
    ],
)
async def test_invalid_request_is_rejected(
    access: AccessServiceStub, operator: Metadata, fields: dict[str, Any], field: str
) -> None:
    error = await rejection(access, operator, **fields)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(error.violations) == [field]


async def test_token_expires_with_the_key_of_the_minter(
    access: AccessServiceStub, database: Database
) -> None:
    end = datetime.now(UTC) + timedelta(minutes=5)
    key = await add_api_key(database, Role.OPERATOR, expire_time=end)
    mint_response = await mint(
        access, bearer(key), labels={"user": "42"}, lifetime=Duration(seconds=3600)
    )
    assert mint_response.principal.expire_time.seconds == int(end.timestamp())


async def test_default_lifetime_is_15_minutes(
    access: AccessServiceStub, operator: Metadata
) -> None:
    before = int(time.time())
    mint_response = await mint(access, operator, labels={"user": "42"})
    assert before + 900 <= mint_response.principal.expire_time.seconds <= time.time() + 900


async def test_stream_ends_when_its_token_expires(
    access: AccessServiceStub, jobs: JobServiceStub, operator: Metadata
) -> None:
    job_id = await submit(jobs, operator)
    mint_response = await mint(access, operator, job_id=job_id, lifetime=Duration(seconds=2))
    stream = jobs.WatchJob(WatchJobRequest(job_id=job_id), metadata=bearer(mint_response.token))

    async def read() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    error = await rpc_error(read())
    assert error.reason == "CREDENTIAL_CHANGED"
    assert error.metadata == {"after_seq": "1"}

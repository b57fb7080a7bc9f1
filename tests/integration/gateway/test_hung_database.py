"""A hung database: calls end as UNAVAILABLE before their callers time out."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import grpc
import pytest
from pydantic import SecretStr

from headrace import Client, Unavailable
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import (
    BatchSubmitJobsRequest,
    CancelJobRequest,
    GetJobRequest,
    GetStatsRequest,
    ListJobsRequest,
    RetryJobRequest,
    SubmitAndWatchRequest,
    SubmitJobRequest,
    WatchJobRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.ids import uuid7
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql import database as database_module
from headrace_gateway.service import Gateway
from support.gateway import rpc_error
from support.proxy import Proxy

SPEC = JobSpec(type="email")
JOB = str(uuid7())
CLIENT_DEADLINE = inspect.signature(Client).parameters["timeout"].default


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(database_url)
    await proxy.start()
    yield proxy
    proxy.release()
    await proxy.cut()


@pytest.fixture
def settings(settings: Settings, proxy: Proxy) -> Settings:
    return settings.model_copy(
        update={
            "database_url": SecretStr(proxy.url),
            # Only the call timeout ends these calls.
            "database_timeout": 300.0,
            "call_timeout": 2.0,
        }
    )


@asynccontextmanager
async def locked_jobs(database_url: str, schema: str) -> AsyncIterator[None]:
    """Lock the jobs table in another session."""
    session = await asyncpg.connect(database_url, timeout=30)
    try:
        async with session.transaction():
            await session.execute(f"LOCK TABLE {schema}.jobs IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await session.close(timeout=30)


@asynccontextmanager
async def silent_proxy(proxy: Proxy) -> AsyncIterator[None]:
    """Hold all data of existing and new connections."""
    proxy.hold()
    try:
        yield
    finally:
        proxy.release()


def all_calls(jobs: JobServiceStub) -> list[grpc.aio.Call]:
    options = {"timeout": 60}
    return [
        jobs.SubmitJob(SubmitJobRequest(job=SPEC), **options),
        jobs.BatchSubmitJobs(BatchSubmitJobsRequest(jobs=[SPEC]), **options),
        jobs.GetJob(GetJobRequest(job_id=JOB), **options),
        jobs.ListJobs(ListJobsRequest(), **options),
        jobs.CancelJob(CancelJobRequest(job_id=JOB), **options),
        jobs.RetryJob(RetryJobRequest(job_id=JOB), **options),
        jobs.GetStats(GetStatsRequest(), **options),
        jobs.SubmitAndWatch(SubmitAndWatchRequest(job=SPEC), **options).read(),
        jobs.WatchJob(WatchJobRequest(job_id=JOB), **options).read(),
    ]


@pytest.mark.parametrize("fault", ["locked", "silent"])
async def test_call_with_a_hung_database_is_unavailable(
    jobs: JobServiceStub, database_url: str, settings: Settings, proxy: Proxy, fault: str
):
    await jobs.SubmitJob(SubmitJobRequest(job=SPEC))
    hung_database = (
        locked_jobs(database_url, settings.database_schema)
        if fault == "locked"
        else silent_proxy(proxy)
    )
    async with hung_database:
        errors = await asyncio.gather(*map(rpc_error, all_calls(jobs)))

    for error in errors:
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert error.metadata == {"dependency": "postgresql"}
    await jobs.SubmitJob(SubmitJobRequest(job=SPEC), timeout=60)


async def test_client_retries_until_a_hung_database_responds(
    gateway: Gateway, database_url: str, settings: Settings
):
    target = f"127.0.0.1:{gateway.port}"
    async with (
        Client(target, timeout=60, retries=50) as client,
        Client(target, timeout=60, retries=0) as without_retries,
    ):
        async with locked_jobs(database_url, settings.database_schema):
            submit = asyncio.create_task(client.submit("email", request_id="once"))
            # The first call of `submit` ends before the later call of `without_retries`.
            with pytest.raises(Unavailable, match="postgresql"):
                await without_retries.submit("email")
            assert not submit.done()
        job = await submit

        repeated = await client.submit("email", request_id="once")
        assert repeated.id == job.id


def test_call_timeout_is_below_the_client_deadline():
    release = database_module._RELEASE_S

    assert Settings().call_timeout + release < CLIENT_DEADLINE

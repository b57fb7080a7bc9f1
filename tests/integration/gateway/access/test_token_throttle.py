"""Forged tokens of an address are rejected without a verification after a while."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import grpc.aio
import pytest

from headrace.v1.job_service_pb2 import GetStatsRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.access import Principal, PrincipalKind, Role
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import read_installation
from headrace_gateway.access.signing import InstallationTokens
from support.access import add_api_key, bearer
from support.gateway import TIMEOUT, RpcError, rpc_error


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def tokens(database: Database) -> InstallationTokens:
    async with database.statement() as conn:
        return InstallationTokens(database=database, installation=await read_installation(conn))


async def issue(tokens: InstallationTokens, name: str, *, lifetime: float = 600) -> str:
    principal = Principal.of(
        name=name,
        tenant="default",
        kind=PrincipalKind.USER,
        role=Role.OPERATOR,
        credential=f"session of {name}",
        expire_time=time.time() + lifetime,
    )
    return await tokens.issue(principal, version=0)


async def exhaust(jobs: JobServiceStub, token: str) -> RpcError:
    """Call with forged tokens until they are not verified; return the last error."""
    forged = token.rpartition(".")[0] + "." + "A" * 86
    async with asyncio.timeout(TIMEOUT):
        while True:
            calls = [
                rpc_error(jobs.GetStats(GetStatsRequest(), metadata=bearer(forged)))
                for _ in range(50)
            ]
            errors = {error.reason: error for error in await asyncio.gather(*calls)}
            assert set(errors) <= {"UNAUTHENTICATED", "TOKENS_THROTTLED"}
            if "TOKENS_THROTTLED" in errors:
                return errors["TOKENS_THROTTLED"]


async def test_forged_tokens_do_not_lock_out_known_callers(
    jobs: JobServiceStub, tokens: InstallationTokens, database: Database
) -> None:
    async def call(credential: str) -> None:
        await jobs.GetStats(GetStatsRequest(), metadata=bearer(credential), timeout=TIMEOUT)

    cached = await issue(tokens, "ada")
    await call(cached)
    error = await exhaust(jobs, await issue(tokens, "mallory"))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "RetryInfo" in error.details
    # A cached token, a new token of a known user, and an API key.
    await call(cached)
    await call(await issue(tokens, "ada", lifetime=300))
    await call(await add_api_key(database, Role.VIEWER))


async def test_new_caller_at_a_throttled_address_succeeds_later(
    jobs: JobServiceStub, tokens: InstallationTokens
) -> None:
    await exhaust(jobs, await issue(tokens, "mallory"))
    token = await issue(tokens, "bob")
    async with asyncio.timeout(TIMEOUT):
        while True:
            with suppress(grpc.aio.AioRpcError):
                await jobs.GetStats(GetStatsRequest(), metadata=bearer(token))
                return
            await asyncio.sleep(0.05)

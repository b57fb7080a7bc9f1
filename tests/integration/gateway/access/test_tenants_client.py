"""Tenants with the Python client and the command line."""

from __future__ import annotations

import json

import pytest

from headrace import (
    AccessNotFound,
    Client,
    QuotaExceeded,
    Quotas,
    StateConflict,
    TenantState,
)
from headrace_core.domain.access import Role
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from support.access import add_api_key
from support.command_line import Headrace


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def platform_key(database: Database) -> str:
    return await add_api_key(database, Role.PLATFORM)


async def test_client_manages_tenants(target: str, platform_key: str) -> None:
    async with Client(target, api_key=platform_key) as client:
        created = await client.create_tenant("acme", ceilings=Quotas(waiting_jobs=10))
        assert (created.name, created.state) == ("acme", TenantState.ACTIVE)
        assert [tenant.name async for tenant in client.tenants()] == ["acme", "default"]
        limited = await client.set_quotas("acme", quotas=Quotas(waiting_jobs=3, open_streams=0))
        assert limited.quotas == Quotas(waiting_jobs=3, open_streams=0)
        usage = await client.usage("acme")
        assert usage.limits == limited.quotas
        assert (usage.waiting_jobs, usage.payload_bytes) == (0, 0)
        assert (await client.suspend_tenant("acme")).state is TenantState.SUSPENDED
        assert (await client.resume_tenant("acme")).state is TenantState.ACTIVE
        deleted = await client.delete_tenant("acme")
        assert deleted.state is TenantState.DELETING
        assert deleted.deletion is not None
        with pytest.raises(StateConflict):
            await client.resume_tenant("acme")
        with pytest.raises(AccessNotFound):
            await client.tenant("missing")


async def test_client_reports_the_exhausted_quota(target: str, admin_key: str) -> None:
    async with Client(target, api_key=admin_key) as client:
        await client.set_quotas(quotas=Quotas(submits_per_second=0))
        with pytest.raises(QuotaExceeded) as refused:
            # The gateway reads the quota a moment later.
            while True:
                await client.submit("email")
    error = refused.value
    assert (error.quota, error.limit, error.used) == ("submits_per_second", 0, 0)
    assert error.refusal.retry_after is not None


async def test_command_line_manages_tenants(headrace: Headrace, platform_key: str) -> None:
    async def run(*arguments: str, code: int = 0) -> str:
        result = await headrace("tenants", *arguments, HEADRACE_API_KEY=platform_key)
        assert result.code == code, result.err
        return result.out

    assert (await run("create", "acme", "--ceiling", "waiting_jobs=10")).strip() == "acme"
    await run("limit", "acme", "--quota", "waiting_jobs=5", "--quota", "open_streams=2")
    output = await run("limit", "acme", "--quota", "open_streams=none")
    assert "waiting_jobs=5" in output
    assert "open_streams" not in output
    await run("limit", "acme", "--quota", "waiting_jobs=11", code=2)
    await run("limit", "acme", "--quota", "jobs=1", code=2)
    await run("suspend", "acme")
    assert "suspended" in await run("list")
    await run("resume", "acme")
    usage = json.loads(await run("usage", "acme", "-o", "json"))
    assert (usage["waiting_jobs"], usage["limits"]["waiting_jobs"]) == (0, 5)
    assert "waiting_jobs" in await run("usage", "acme")
    await run("delete", "acme", code=2)
    await run("delete", "acme", "--yes")
    assert "jobs removed" in await run("get", "acme")
    await run("get", "missing", code=3)

"""A gateway with TLS and access control, from a terminal with grpcurl."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace_core.domain.access import Role, Scope
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.certificates import create_binding
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support.access import add_api_key
from support.certificates import Authority, with_tls

DEADLINE_S = 30
WHO_AM_I = "headrace.v1.AccessService/WhoAmI"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def gateway(settings: Settings, authority: Authority) -> AsyncIterator[Gateway]:
    gateway = Gateway(
        with_tls(
            settings,
            authority.server(),
            access_control=True,
            tls_client_ca=str(authority.file),
            gateway_mtls_address="127.0.0.1:0",
        )
    )
    await gateway.start()
    yield gateway
    await gateway.stop()


async def grpcurl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run grpcurl in a thread, because the gateway runs in this event loop."""
    program = shutil.which("grpcurl", path=sysconfig.get_path("scripts"))
    assert program is not None, "grpcurl is not installed: make setup"
    return await asyncio.to_thread(
        subprocess.run,
        [program, "-max-time", str(DEADLINE_S), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S + 10,
        check=False,
        env=os.environ | environment,
    )


async def test_bearer_from_the_environment_identifies_the_caller(
    gateway: Gateway, database: Database, authority: Authority
) -> None:
    key = await add_api_key(database, Role.VIEWER, principal="terminal")
    completed = await grpcurl(
        *("-cacert", str(authority.file), "-expand-headers"),
        *("-H", "authorization: Bearer ${HEADRACE_API_KEY}"),
        *(f"localhost:{gateway.port}", WHO_AM_I),
        HEADRACE_API_KEY=key,
    )
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout)["principal"]["name"] == "terminal"


async def test_client_certificate_identifies_the_caller(
    gateway: Gateway, database: Database, authority: Authority
) -> None:
    client = authority.issue("client", uris=["spiffe://example.com/terminal"])
    async with database.transaction() as conn:
        await create_binding(
            conn,
            san="uri:spiffe://example.com/terminal",
            tenant=DEFAULT_TENANT,
            principal="terminal",
            role=Role.VIEWER,
            scope=Scope(),
            created_by="test",
        )
    completed = await grpcurl(
        *("-cacert", str(authority.file), "-cert", str(client.cert), "-key", str(client.key)),
        *(f"localhost:{gateway.mtls_port}", WHO_AM_I),
    )
    assert completed.returncode == 0, completed.stderr
    principal = json.loads(completed.stdout)["principal"]
    assert (principal["name"], principal["kind"]) == ("terminal", "PRINCIPAL_KIND_CERTIFICATE")


async def test_anonymous_caller_can_use_only_health_and_reflection(
    gateway: Gateway, authority: Authority
) -> None:
    place = ("-cacert", str(authority.file), f"localhost:{gateway.port}")
    refused = await grpcurl(*place, WHO_AM_I)
    assert "Code: Unauthenticated" in refused.stderr
    health = await grpcurl(*place, "grpc.health.v1.Health/Check")
    assert json.loads(health.stdout) == {"status": "SERVING"}
    # Queues are not visible, because a queue can belong to a tenant.
    request = json.dumps({"service": "queue/default"})
    queue = await grpcurl("-d", request, *place, "grpc.health.v1.Health/Check")
    assert "Code: NotFound" in queue.stderr
    assert "headrace.v1.JobService" in (await grpcurl(*place, "list")).stdout
    plain = await grpcurl("-plaintext", f"localhost:{gateway.port}", "list")
    assert plain.returncode != 0

"""The Python client and the command line against the gateway's own TLS, with real certificates."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from headrace import TLS, Client, PrincipalKind, Role, SyncClient, Unavailable
from headrace_core.domain import access
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support.access import add_api_key
from support.certificates import Authority, CertificateFile, with_tls
from support.command_line import Headrace
from support.gateway import TIMEOUT

SAN = "dns:billing.example.com"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> CertificateFile:
    return authority.server()


@pytest.fixture
def settings(settings: Settings, authority: Authority, server: CertificateFile) -> Settings:
    return with_tls(
        settings,
        server,
        access_control=True,
        tls_client_ca=str(authority.file),
        gateway_mtls_address="127.0.0.1:0",
    )


@pytest.fixture
def target(gateway: Gateway) -> str:
    return f"localhost:{gateway.port}"


@pytest.fixture
def mtls_target(gateway: Gateway) -> str:
    return f"localhost:{gateway.mtls_port}"


@pytest.fixture
def trust(authority: Authority) -> TLS:
    return TLS(ca=authority.file)


@pytest.fixture
async def key(database: Database) -> str:
    return await add_api_key(database, access.Role.PLATFORM)


@pytest.fixture
async def billing(authority: Authority, target: str, trust: TLS, key: str) -> CertificateFile:
    """A client certificate that is bound to the principal `billing`."""
    certificate = authority.issue("client", SAN.removeprefix("dns:"))
    async with Client(target, api_key=key, tls=trust) as client:
        await client.create_certificate_binding(SAN, "billing", role="operator")
    return certificate


async def test_client_calls_and_streams_over_tls(target: str, trust: TLS, key: str) -> None:
    async with Client(target, api_key=key, tls=trust) as client, client.watch() as watch:
        job = await client.submit("email")
        async with asyncio.timeout(TIMEOUT):
            assert (await anext(watch)).job_id == job.id


async def test_synchronous_client_calls_over_tls(target: str, trust: TLS, key: str) -> None:
    def submit() -> str:
        with SyncClient(target, api_key=key, tls=trust) as client:
            return client.submit("email").id

    assert await asyncio.to_thread(submit)


async def test_client_rejects_the_certificate_of_another_authority(
    target: str, key: str, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = TLS(ca=Authority(tmp_path / "other").file)
    async with Client(target, api_key=key, tls=other, retries=0) as client:
        with pytest.raises(Unavailable):
            await client.whoami()


async def test_client_certificate_identifies_the_client(
    mtls_target: str, authority: Authority, billing: CertificateFile
) -> None:
    tls = TLS(ca=authority.file, cert=billing.cert, key=billing.key)
    async with Client(mtls_target, tls=tls) as client:
        me = await client.whoami()
    assert (me.name, me.kind, me.role) == ("billing", PrincipalKind.CERTIFICATE, Role.OPERATOR)


async def test_client_accepts_a_replaced_server_certificate(
    target: str, trust: TLS, key: str, authority: Authority
) -> None:
    async with Client(target, api_key=key, tls=trust) as client:
        await client.whoami()
    authority.server()
    async with Client(target, api_key=key, tls=trust) as client:
        await client.whoami()


async def test_command_line_calls_over_tls(
    cli: tuple[str, ...], target: str, authority: Authority, key: str, tmp_path: Path
) -> None:
    headrace = Headrace(cli, target=target, config=tmp_path)
    ca = str(authority.file)
    result = await headrace("whoami", HEADRACE_TLS_CA=ca, HEADRACE_API_KEY=key)
    assert result.code == 0, result.err
    assert "ada" in result.out
    # Without TLS, the gateway ends the connection.
    plain = await headrace("whoami", "--timeout", "5", HEADRACE_API_KEY=key)
    assert plain.code not in (0, None)
    assert key not in plain.err


async def test_command_line_presents_a_client_certificate(
    cli: tuple[str, ...],
    mtls_target: str,
    authority: Authority,
    billing: CertificateFile,
    tmp_path: Path,
) -> None:
    headrace = Headrace(cli, target=mtls_target, config=tmp_path)
    result = await headrace(
        "whoami",
        HEADRACE_TLS_CA=str(authority.file),
        HEADRACE_TLS_CERT=str(billing.cert),
        HEADRACE_TLS_KEY=str(billing.key),
    )
    assert result.code == 0, result.err
    assert "billing" in result.out

"""The API over TLS: replaced certificates, client certificates and rejected files."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from headrace.v1.job_service_pb2 import GetStatsRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings, StartRefused
from headrace_gateway.service import Gateway
from headrace_health import CertificateFiles
from headrace_health.__main__ import ProbeTls, main, probe
from headrace_scheduler.service import Scheduler
from support.certificates import Authority, CertificateFile, with_tls
from support.gateway import TIMEOUT

RunGateway = Callable[[Settings], AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> CertificateFile:
    return authority.server()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Gateway]:
    gateway = Gateway(settings)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


async def call(port: int, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """Make a call on a new connection, and return its status."""
    # A shared connection would keep the certificate of its handshake.
    options = [("grpc.use_local_subchannel_pool", 1)]
    target = f"localhost:{port}"
    channel = (
        grpc.aio.insecure_channel(target, options=options)
        if credentials is None
        else grpc.aio.secure_channel(target, credentials, options=options)
    )
    async with channel:
        try:
            await JobServiceStub(channel).GetStats(GetStatsRequest(), timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def served_certificate(port: int) -> bytes:
    """Return the certificate that a server presents, in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    async with asyncio.timeout(TIMEOUT):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    assert isinstance(certificate, bytes)
    return certificate


def der(file: CertificateFile) -> bytes:
    return ssl.PEM_cert_to_DER_cert(file.cert.read_text())


async def test_api_needs_tls_and_a_trusted_certificate(
    settings: Settings, authority: Authority, server: CertificateFile, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    async with running(with_tls(settings, server)) as gateway:
        assert await call(gateway.port, authority.credentials()) is grpc.StatusCode.OK
        assert await call(gateway.port, None) is grpc.StatusCode.UNAVAILABLE
        assert await call(gateway.port, other.credentials()) is grpc.StatusCode.UNAVAILABLE


# Python warns about the old versions, which the gateway must reject.
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_tls_below_1_2_is_rejected(settings: Settings, server: CertificateFile) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # Above security level 0, OpenSSL refuses TLS 1.1 itself.
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with running(with_tls(settings, server)) as gateway:
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            context.minimum_version = context.maximum_version = version
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context)


async def test_replaced_certificate_applies_to_new_connections(
    settings: Settings, authority: Authority, server: CertificateFile
) -> None:
    async with running(with_tls(settings, server)) as gateway:
        before = der(server)
        async with grpc.aio.secure_channel(
            f"localhost:{gateway.port}", authority.credentials()
        ) as channel:
            jobs = JobServiceStub(channel)
            await jobs.GetStats(GetStatsRequest(), timeout=TIMEOUT)
            assert await served_certificate(gateway.port) == before
            replaced = authority.server()
            assert der(replaced) != before
            assert await served_certificate(gateway.port) == der(replaced)
            # The open connection is unaffected.
            await jobs.GetStats(GetStatsRequest(), timeout=TIMEOUT)
        assert await call(gateway.port, authority.credentials()) is grpc.StatusCode.OK


async def test_partly_replaced_certificate_is_not_used(
    settings: Settings, authority: Authority, server: CertificateFile
) -> None:
    async with running(with_tls(settings, server)) as gateway:
        before = der(server)
        new = authority.server("new")
        with capture_logs() as logs:
            shutil.copy(new.cert, server.cert)
            assert await served_certificate(gateway.port) == before
            assert await served_certificate(gateway.port) == before
            server.cert.unlink()
            assert await served_certificate(gateway.port) == before
            shutil.copy(new.cert, server.cert)
            shutil.copy(new.key, server.key)
            assert await served_certificate(gateway.port) == der(new)
        events = [line["event"] for line in logs if line["event"].startswith("certificate")]
        # A file is rejected only once, for any number of connections.
        assert events == ["certificate_rejected", "certificate_reloaded"]
        assert "does not belong" in next(line for line in logs if "reason" in line)["reason"]


async def test_required_client_certificate_is_verified(
    settings: Settings, authority: Authority, server: CertificateFile, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    untrusted = Authority(tmp_path / "other").issue("client", "client.example.com")
    client = authority.issue("client", "client.example.com")
    tls = with_tls(settings, server, tls_client_ca=str(authority.file), tls_client_certs="required")
    async with running(tls) as gateway:
        assert await call(gateway.port, authority.credentials(client)) is grpc.StatusCode.OK
        for refused in (authority.credentials(), authority.credentials(untrusted)):
            assert await call(gateway.port, refused) is grpc.StatusCode.UNAVAILABLE


async def test_second_address_makes_client_certificates_optional(
    settings: Settings, authority: Authority, server: CertificateFile
) -> None:
    client = authority.issue("client", "client.example.com")
    tls = with_tls(
        settings,
        server,
        tls_client_ca=str(authority.file),
        gateway_mtls_address="127.0.0.1:0",
    )
    async with running(tls) as gateway:
        assert await call(gateway.port, authority.credentials()) is grpc.StatusCode.OK
        assert await call(gateway.mtls_port, authority.credentials(client)) is grpc.StatusCode.OK
        refused = await call(gateway.mtls_port, authority.credentials())
        assert refused is grpc.StatusCode.UNAVAILABLE


async def test_health_probe_uses_tls(
    settings: Settings,
    authority: Authority,
    server: CertificateFile,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tls = with_tls(settings, server)
    scheduler = Scheduler(tls)
    await scheduler.start()
    try:
        async with running(tls) as gateway:
            for port in (gateway.port, scheduler.port):
                for options, status in (
                    (ProbeTls(ca=authority.file), "SERVING"),
                    (ProbeTls(ca=authority.file, name="localhost"), "SERVING"),
                    (ProbeTls(ca=authority.file, name="example.com"), "UNAVAILABLE"),
                    (None, "UNAVAILABLE"),
                ):
                    completed = await asyncio.to_thread(
                        probe, f"127.0.0.1:{port}", service="", timeout=TIMEOUT, tls=options
                    )
                    assert completed == status
            arguments = ["probe", f"127.0.0.1:{gateway.port}", "--tls-ca", str(authority.file)]
            assert await asyncio.to_thread(main, arguments) == 0
        assert "SERVING" in capsys.readouterr().out.splitlines()
    finally:
        await scheduler.stop()


async def test_plain_health_is_served_without_tls(
    settings: Settings, server: CertificateFile
) -> None:
    scheduler = Scheduler(with_tls(settings, server, plain_health=True))
    await scheduler.start()
    try:
        completed = await asyncio.to_thread(
            probe, f"127.0.0.1:{scheduler.port}", service="", timeout=TIMEOUT
        )
        assert completed == "SERVING"
    finally:
        await scheduler.stop()


@pytest.mark.parametrize(
    ("break_files", "reason"),
    [
        (lambda file: file.cert.unlink(), "No such file"),
        (lambda file: file.key.write_text("no key"), "PEM"),
        (lambda file: file.key.write_bytes(_other_key(file)), "does not belong"),
        (lambda file: os.truncate(file.cert, 0), "PEM"),
    ],
    ids=["missing", "no key", "other key", "empty"],
)
def test_unusable_files_are_rejected_with_the_reason(
    server: CertificateFile, break_files: Callable[[CertificateFile], None], reason: str
) -> None:
    break_files(server)
    with pytest.raises(StartRefused, match=f"HEADRACE_TLS_CERT=.*{reason}"):
        CertificateFiles(cert=server.cert, key=server.key)


def _other_key(file: CertificateFile) -> bytes:
    return Authority(file.key.parent).server("other").key.read_bytes()

"""Metrics over HTTPS, served by real services and read with real certificates."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry

from headrace_core.runtime.metrics import MetricsServer
from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from headrace_health import CertificateFiles
from headrace_scheduler.service import Scheduler
from headrace_worker.service import WorkerService
from support.certificates import Authority, CertificateFile
from support.handlers import handlers

HOST = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def certificate(authority: Authority) -> CertificateFile:
    return authority.issue("server", HOST)


@pytest.fixture
def settings(settings: Settings, certificate: CertificateFile) -> Settings:
    addresses = {f"{name}_metrics_address": f"{HOST}:0" for name in SERVICES}
    files = {"tls_cert": str(certificate.cert), "tls_key": str(certificate.key)}
    return settings.model_copy(update={**addresses, **files})


def worker(settings: Settings) -> WorkerService:
    return WorkerService(settings, handlers())


SERVICES: dict[str, Callable[[Settings], Gateway | Scheduler | WorkerService]] = {
    "gateway": Gateway,
    "scheduler": Scheduler,
    "worker": worker,
}


def get(url: str, ca: bytes | None = None) -> str:
    context = ssl.create_default_context(cadata=None if ca is None else ca.decode())
    with urlopen(url, timeout=30, context=context if url.startswith("https") else None) as response:
        return str(response.read().decode())


def serial_number(port: int, ca: bytes) -> str:
    """Return the serial number of the certificate that a new connection receives."""
    context = ssl.create_default_context(cadata=ca.decode())
    with (
        socket.create_connection((HOST, port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as connection,
    ):
        return str(connection.getpeercert()["serialNumber"])


@pytest.mark.parametrize("name", SERVICES)
async def test_service_with_a_certificate_serves_metrics_over_https(
    name: str, settings: Settings, authority: Authority, certificate: CertificateFile
) -> None:
    service = SERVICES[name](settings)
    await service.start()
    try:
        url = f"https://{HOST}:{service.metrics_port}/metrics"
        metrics = await asyncio.to_thread(get, url, authority.pem)
        [value] = re.findall(r"\nheadrace_certificate_expire_timestamp_seconds (.*)\n", metrics)
        issued = x509.load_pem_x509_certificate(certificate.cert.read_bytes())
        assert float(value) == issued.not_valid_after_utc.timestamp()
        with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
            await asyncio.to_thread(get, url)
        with pytest.raises(OSError, match=r"."):
            await asyncio.to_thread(get, url.replace("https", "http"))
    finally:
        await service.stop()


@pytest.mark.parametrize("name", SERVICES)
async def test_plain_metrics_are_served_over_http(name: str, settings: Settings) -> None:
    service = SERVICES[name](settings.model_copy(update={"plain_metrics": True}))
    await service.start()
    try:
        url = f"http://{HOST}:{service.metrics_port}/metrics"
        assert "headrace_" in await asyncio.to_thread(get, url)
    finally:
        await service.stop()


async def test_new_certificate_applies_to_new_connections(
    authority: Authority, certificate: CertificateFile
) -> None:
    files = CertificateFiles(cert=certificate.cert, key=certificate.key)
    server = MetricsServer(
        address=f"{HOST}:0", registry=CollectorRegistry(), tls=files.ssl_context()
    )
    await server.start()
    try:
        before = await asyncio.to_thread(serial_number, server.port, authority.pem)
        authority.issue("server", HOST)
        after = await asyncio.to_thread(serial_number, server.port, authority.pem)
        assert before != after
    finally:
        await server.stop()


async def test_unfinished_handshake_delays_no_other_client(
    authority: Authority, certificate: CertificateFile
) -> None:
    files = CertificateFiles(cert=certificate.cert, key=certificate.key)
    server = MetricsServer(
        address=f"{HOST}:0", registry=CollectorRegistry(), tls=files.ssl_context()
    )
    await server.start()
    silent = [socket.create_connection((HOST, server.port), timeout=30) for _ in range(5)]
    try:
        url = f"https://{HOST}:{server.port}/metrics"
        assert await asyncio.to_thread(get, url, authority.pem) == ""
        # The server ends handshakes that take too long.
        assert [await asyncio.to_thread(one.recv, 1) for one in silent] == [b""] * 5
    finally:
        for one in silent:
            one.close()
        await server.stop()

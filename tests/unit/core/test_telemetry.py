"""The HTTP server for metrics."""

from __future__ import annotations

import asyncio
import http.client
import socket
import time

import pytest
from prometheus_client import CollectorRegistry, Gauge

from headrace_core.runtime import metrics as telemetry
from headrace_core.runtime.metrics import MetricsServer


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("level", "A level.", registry=registry).set(7)
    return registry


def request(host: str, port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    connection.request(method, path)
    with connection.getresponse() as response:
        return response.status, response.read().decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_server_serves_metrics_only(host: str, registry: CollectorRegistry):
    server = MetricsServer(address=f"{host}:0", registry=registry)
    try:
        await server.start()
    except OSError:
        pytest.skip(f"this machine has no {host}")
    try:
        plain = host.strip("[]")
        status, text = await asyncio.to_thread(request, plain, server.port, "/metrics")
        assert status == 200
        assert "level 7.0" in text
        for path in ("/", "/metrics/", "/etc/passwd", "/favicon.ico"):
            assert (await asyncio.to_thread(request, plain, server.port, path))[0] == 404
        assert (await asyncio.to_thread(request, plain, server.port, "/metrics", "POST"))[0] == 405
    finally:
        await server.stop()


async def test_address_in_use_is_an_error(registry: CollectorRegistry):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await MetricsServer(address=f"127.0.0.1:{port}", registry=registry).start()


async def test_silent_client_is_disconnected_and_delays_nothing(
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(telemetry._Handler, "timeout", 0.2)
    server = MetricsServer(address="127.0.0.1:0", registry=registry)
    await server.start()
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(5)]
    assert (await asyncio.to_thread(request, "127.0.0.1", server.port, "/metrics"))[0] == 200
    assert [await asyncio.to_thread(one.recv, 1) for one in silent] == [b""] * 5
    late = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    started = time.monotonic()
    await server.stop()
    assert time.monotonic() - started < 5
    await server.stop()
    for one in (*silent, late):
        one.close()
    assert capfd.readouterr().err == ""

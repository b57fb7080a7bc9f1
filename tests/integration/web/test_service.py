"""The web service: health, metrics, TLS, shutdown, and the rules for every request."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import httpx2
import pytest

from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from headrace_health.http_probe import probe_http
from headrace_standalone.embedded.port import free_port
from headrace_web.service import Web
from support.certificates import Authority
from support.sse import EventSource
from support.until import until


async def test_health_follows_the_gateway(settings: Settings) -> None:
    gateway = Gateway(settings.model_copy(update={"gateway_address": f"127.0.0.1:{free_port()}"}))
    await gateway.start()
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{web.port}") as client:
            assert (await client.get("/healthz")).status_code == 200
            await gateway.stop()

            async def unhealthy() -> bool:
                return (await client.get("/healthz")).status_code == 503

            await until(unhealthy)
            assert (await client.get("/livez")).status_code == 200
    finally:
        await web.stop()


async def test_web_starts_before_the_gateway(settings: Settings) -> None:
    web = Web(settings, target=f"127.0.0.1:{free_port()}")
    await web.start()
    try:
        url = f"http://127.0.0.1:{web.port}"
        assert not await asyncio.to_thread(probe_http, url, timeout=10)
    finally:
        await web.stop()


async def test_metrics_count_requests_by_status(settings: Settings, gateway: Gateway) -> None:
    settings = settings.model_copy(update={"web_metrics_address": "127.0.0.1:0"})
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    try:
        async with httpx2.AsyncClient(trust_env=False) as client:
            await client.get(f"http://127.0.0.1:{web.port}/livez")
            await client.get(f"http://127.0.0.1:{web.port}/nothing")
            metrics = (await client.get(f"http://127.0.0.1:{web.metrics_port}/metrics")).text
    finally:
        await web.stop()
    assert 'headrace_web_requests_total{status="200"} 1.0' in metrics
    assert 'headrace_web_requests_total{status="404"} 1.0' in metrics
    assert "headrace_web_open_requests 0.0" in metrics


async def test_requests_are_served_while_many_streams_are_open(settings: Settings) -> None:
    gateway = Gateway(settings.model_copy(update={"max_concurrent_streams": 2}))
    await gateway.start()
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    url = f"http://127.0.0.1:{web.port}"
    try:
        async with (
            asyncio.timeout(60),
            AsyncExitStack() as streams,
            httpx2.AsyncClient(base_url=url, trust_env=False) as http,
        ):
            sources = [EventSource(f"{url}/v1/events").messages() for _ in range(5)]
            for messages in sources:
                await streams.enter_async_context(aclosing(messages))
                assert (await anext(messages)).event == "caught_up"
            response = await http.post("/v1/jobs", json={"type": "email"})
            assert response.status_code == 201, response.text
            for messages in sources:
                assert (await anext(messages)).event == "submitted"
    finally:
        await web.stop()
        await gateway.stop()


async def test_certificate_is_replaced_while_serving(
    settings: Settings, gateway: Gateway, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("web", "127.0.0.1")
    settings = settings.model_copy(
        update={"tls_cert": str(files.cert), "tls_key": str(files.key), "tls_client_ca": ""}
    )
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    try:
        first = await served_certificate(web.port, authority.file)
        assert await asyncio.to_thread(
            probe_http, f"https://127.0.0.1:{web.port}", timeout=10, ca=authority.file
        )
        authority.issue("web", "127.0.0.1")
        assert await served_certificate(web.port, authority.file) != first
    finally:
        await web.stop()


async def served_certificate(port: int, ca: Path) -> bytes:
    context = ssl.create_default_context(cafile=ca)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


async def test_every_response_has_an_id_and_security_headers(http: httpx2.AsyncClient) -> None:
    for path in ("/livez", "/nothing"):
        response = await http.get(path)
        assert len(response.headers["x-request-id"]) == 32
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert "server" not in response.headers
    named = await http.get("/livez", headers={"x-request-id": "mine-1"})
    assert named.headers["x-request-id"] == "mine-1"
    with_invalid_id = await http.get("/livez", headers={"x-request-id": 'a"b'})
    assert len(with_invalid_id.headers["x-request-id"]) == 32


async def test_unknown_path_is_a_problem_document(http: httpx2.AsyncClient) -> None:
    response = await http.get("/nothing")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "/nothing does not exist",
        "requestId": response.headers["x-request-id"],
    }
    assert (await http.post("/livez")).json()["detail"] == "/livez does not support POST"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost:1", 200),
        ("[::1]:80", 200),
        ("web:8080", 200),
        ("app.localhost", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:8080", 421),
    ],
)
async def test_foreign_host_name_is_rejected(
    http: httpx2.AsyncClient, host: str, status: int
) -> None:
    response = await http.get("/livez", headers={"host": host})
    assert response.status_code == status


async def test_page_of_another_site_is_rejected(http: httpx2.AsyncClient) -> None:
    response = await http.get("/livez", headers={"origin": "https://evil.example"})
    assert response.status_code == 403
    assert "HEADRACE_WEB_ORIGINS" in response.json()["detail"]
    assert (await http.get("/livez", headers={"origin": "null"})).status_code == 403
    own = str(http.base_url).rstrip("/")
    assert (await http.get("/livez", headers={"origin": own})).status_code == 200


async def test_configured_origin_may_call(settings: Settings, gateway: Gateway) -> None:
    settings = settings.model_copy(
        update={
            "web_origins": ("https://app.example",),
            "web_public_url": "https://jobs.example",
        }
    )
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{web.port}") as client:
            headers = {"origin": "https://app.example", "host": "jobs.example"}
            response = await client.get("/livez", headers=headers)
            assert response.headers["access-control-allow-origin"] == "https://app.example"
            preflight = await client.options(
                "/livez",
                headers=headers
                | {
                    "access-control-request-method": "POST",
                    "access-control-request-headers": "authorization,content-type",
                },
            )
            assert preflight.status_code == 200
            assert "POST" in preflight.headers["access-control-allow-methods"]
            own = await client.get("/livez", headers={"origin": "https://jobs.example"})
            assert own.status_code == 200
            assert "access-control-allow-credentials" not in response.headers
    finally:
        await web.stop()


async def test_oversized_body_is_rejected_before_it_is_read(
    settings: Settings, gateway: Gateway
) -> None:
    web = Web(
        settings.model_copy(update={"max_request_bytes": 1024}),
        target=f"127.0.0.1:{gateway.port}",
    )
    await web.start()
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{web.port}") as client:
            response = await client.post("/livez", content=b"x" * 1025)
            assert response.status_code == 413
            assert "1025 bytes; the limit is 1024" in response.json()["detail"]
    finally:
        await web.stop()


async def test_connection_without_a_complete_head_is_closed(
    settings: Settings, gateway: Gateway
) -> None:
    web = Web(
        settings.model_copy(update={"handshake_timeout": 1.0}), target=f"127.0.0.1:{gateway.port}"
    )
    await web.start()
    try:
        for sent in (b"", b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx-slow: "):
            reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
            writer.write(sent)
            async with asyncio.timeout(30):
                assert await reader.read() == b""
            writer.close()
        # A complete request is not limited by this time.
        events = EventSource(f"http://127.0.0.1:{web.port}/v1/events")
        async with asyncio.timeout(30), aclosing(events.messages(reconnect=False)) as messages:
            await anext(messages)
            await asyncio.sleep(1.5)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(messages)
    finally:
        await web.stop()

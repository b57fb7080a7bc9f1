"""Requests to a real web server. The server's responses determine the end of the attempt."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from typing import Any

import msgspec
import pytest
import trustme

from headrace_handlers import http_request as handler_module
from headrace_handlers.http_request import Call, http_request
from headrace_worker import Fail, Retry
from headrace_worker.api.payload import encode
from support.recording import async_context
from support.web import WebServer, disconnect, reply, web_server


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_HOSTS", "127.0.0.1")
    with web_server() as running:
        yield running


async def test_request_names_its_job_and_attempt(service: WebServer) -> None:
    service.responder = reply(
        201, b'{"order": 7}', Content_Type="application/json", X_Request_Id="r1", Set_Cookie="a=b"
    )
    ctx = async_context(number=3)
    response = await http_request(
        Call(url=f"{service.url}/orders?shop=1", body={"order": 7}, headers={"X-Shop": "1"}), ctx
    )
    assert (response.status, response.body, response.truncated) == (201, '{"order": 7}', False)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"] == "r1"
    assert "set-cookie" not in response.headers
    (request,) = service.received
    assert (request.method, request.path) == ("POST", "/orders?shop=1")
    assert json.loads(request.body) == {"order": 7}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == str(ctx.attempt.job_id)
    assert request.headers["x-headrace-attempt"] == "3"
    assert request.headers["x-shop"] == "1"


async def test_request_joins_the_trace_of_the_submit(service: WebServer) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    ctx = async_context(traceparent=parent, tracestate="a=1")
    await http_request(Call(url=service.url), ctx)
    other = parent.replace("b7-01", "b8-01")
    await http_request(Call(url=service.url, headers={"Traceparent": other}), ctx)
    await http_request(Call(url=service.url), async_context())
    found = [
        (request.headers.get("traceparent"), request.headers.get("tracestate"))
        for request in service.received
    ]
    assert found == [(parent, "a=1"), (other, "a=1"), (None, None)]


@pytest.mark.parametrize(
    ("payload", "body", "content_type"),
    [
        ({}, b"", None),
        ({"body": None}, b"null", "application/json"),
        ({"body": "Grüße"}, "Grüße".encode(), "text/plain; charset=utf-8"),
        ({"body": "<a/>", "headers": {"content-type": "text/xml"}}, b"<a/>", "text/xml"),
        ({"body": [1.5, "a"]}, b'[1.5,"a"]', "application/json"),
        ({"body": 2**70}, b"%d" % 2**70, "application/json"),
    ],
)
async def test_body_is_sent_as_text_or_json(
    service: WebServer, payload: dict[str, Any], body: bytes, content_type: str | None
) -> None:
    call = msgspec.convert({"url": service.url, "method": "PUT", **payload}, type=Call)
    await http_request(call, async_context())
    (request,) = service.received
    assert (request.method, request.body) == ("PUT", body)
    assert request.headers.get("content-type") == content_type


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_busy_or_broken_service_is_retried(service: WebServer, status: int) -> None:
    service.responder = reply(status)
    with pytest.raises(Retry, match=f"returned {status}") as retry:
        await http_request(Call(url=service.url), async_context())
    assert retry.value.after is None


async def test_retry_after_in_seconds_is_used(service: WebServer) -> None:
    service.responder = reply(503, Retry_After="7")
    with pytest.raises(Retry) as retry:
        await http_request(Call(url=service.url), async_context())
    assert retry.value.after == timedelta(seconds=7)


async def test_retry_after_as_a_date_is_used(service: WebServer) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    service.responder = reply(429, Retry_After=date)
    with pytest.raises(Retry) as retry:
        await http_request(Call(url=service.url), async_context())
    assert retry.value.after is not None
    assert timedelta(seconds=80) < retry.value.after <= timedelta(seconds=100)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
async def test_other_error_status_fails(service: WebServer, status: int) -> None:
    service.responder = reply(status, b"no")
    with pytest.raises(Fail, match=f"returned {status}") as failure:
        await http_request(Call(url=service.url), async_context())
    assert failure.value.type == "HttpStatus"


async def test_redirect_is_not_followed(service: WebServer) -> None:
    service.responder = reply(302, Location="http://elsewhere.example/")
    with pytest.raises(Fail, match=r"redirect to http://elsewhere\.example/"):
        await http_request(Call(url=service.url), async_context())
    assert len(service.received) == 1


async def test_only_the_expected_status_succeeds(service: WebServer) -> None:
    service.responder = reply(404)
    response = await http_request(
        Call(url=service.url, method="DELETE", expected_status=[204, 404]), async_context()
    )
    assert response.status == 404
    service.responder = reply(200)
    with pytest.raises(Fail, match="returned 200"):
        await http_request(Call(url=service.url, expected_status=[204]), async_context())


async def test_long_response_is_truncated(
    service: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HTTP_MAX_RESPONSE_BYTES", "10")
    service.responder = reply(200, b"0123456789")
    response = await http_request(Call(url=service.url), async_context())
    assert (response.body, response.truncated) == ("0123456789", False)
    service.responder = reply(200, b"0123456789a")
    response = await http_request(Call(url=service.url), async_context())
    assert (response.body, response.truncated) == ("0123456789", True)


async def test_endless_response_is_truncated(service: WebServer) -> None:
    disconnected = threading.Event()

    def send_endlessly(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        try:
            while True:
                request.wfile.write(b"x" * 100_000)
        except OSError:
            disconnected.set()

    service.responder = send_endlessly
    response = await http_request(Call(url=service.url, timeout=20), async_context())
    assert response.truncated
    assert len(response.body) == 64 * 1024
    assert disconnected.wait(20)


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        ("Grüße".encode(), "text/plain; charset=utf-8", ("Grüße", "text")),
        ("Grüße".encode("latin-1"), "text/plain; charset=iso-8859-1", ("Grüße", "text")),
        (b"\xff", "application/octet-stream", ("/w==", "base64")),
        (b"a\xff", "text/plain; charset=idna", ("Yf8=", "base64")),
        *(
            (b"a", f"text/plain; charset={name}", ("a", "text"))
            for name in ("nonsense", "idna", "undefined", "punycode", "hex", '"', "*", "\xff")
        ),
    ],
)
async def test_response_in_any_encoding_is_a_result(
    service: WebServer, body: bytes, content_type: str, expected: tuple[str, str]
) -> None:
    service.responder = reply(200, body, Content_Type=content_type)
    response = await http_request(Call(url=service.url), async_context())
    assert ((response.body, response.body_encoding), response.truncated) == (expected, False)


@pytest.mark.parametrize("body", [b"\x01" * 60_000, b'"' * 65_536, b"\0" * 65_536])
async def test_response_too_large_as_json_is_truncated(
    service: WebServer, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(handler_module, "max_result_bytes", lambda: 30_000)
    long = "\x7f" * 30_000
    service.responder = reply(200, body, ETag=long, Location=long, X_Request_Id=long)
    response = await http_request(Call(url=service.url), async_context())
    assert response.truncated
    assert 29_990 < len(encode(response)) <= 30_000
    truncated = (
        base64.b64decode(response.body)
        if response.body_encoding == "base64"
        else response.body.encode()
    )
    assert body.startswith(truncated)


def incomplete_response(body: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return a responder that sends a status, headers and an incomplete body."""

    def respond(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)
        request.close_connection = True

    return respond


@pytest.mark.parametrize(
    ("responder", "body"),
    [
        (incomplete_response(b"abc", Content_Length="10"), "abc"),
        (incomplete_response(b"3\r\nabc\r\nzz\r\n", Transfer_Encoding="chunked"), "abc"),
        (incomplete_response(gzip.compress(b"abc")[:-9], Content_Encoding="gzip"), "abc"),
    ],
    ids=["length", "chunks", "gzip"],
)
async def test_incomplete_response_is_marked_truncated(
    service: WebServer, responder: Callable[[BaseHTTPRequestHandler], None], body: str
) -> None:
    service.responder = responder
    result = await http_request(Call(url=service.url), async_context())
    assert (result.status, result.body, result.truncated) == (200, body, True)


async def test_slow_response_is_marked_truncated(service: WebServer) -> None:
    release = threading.Event()

    def stall(request: BaseHTTPRequestHandler) -> None:
        incomplete_response(b"abc", Content_Length="10")(request)
        release.wait(30)

    service.responder = stall
    try:
        result = await http_request(Call(url=service.url, timeout=2), async_context())
    finally:
        release.set()
    assert (result.status, result.body, result.truncated) == (200, "abc", True)


async def test_response_with_invalid_gzip_is_unchanged(service: WebServer) -> None:
    service.responder = reply(200, b"\xffhello", Content_Encoding="gzip")
    response = await http_request(Call(url=service.url), async_context())
    assert base64.b64decode(response.body) == b"\xffhello"
    assert response.headers["content-encoding"] == "gzip"


async def test_header_outside_latin_1_is_rejected(service: WebServer) -> None:
    with pytest.raises(Fail, match="'X-Price' contains a character outside Latin-1") as failure:
        await http_request(Call(url=service.url, headers={"X-Price": "5 €"}), async_context())
    assert failure.value.type == "InvalidRequest"
    assert service.received == []
    await http_request(Call(url=service.url, headers={"X-Name": "Jürg"}), async_context())
    assert service.received[0].headers["x-name"] == "Jürg"


def resolve_test_names(monkeypatch: pytest.MonkeyPatch, **addresses: list[str]) -> list[str]:
    """Resolve `NAME.test` to the next of its addresses; return the list of resolved names."""
    resolved: list[str] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name, _, domain = str(host).partition(".")
        if domain != "test":
            return resolve(host, *args, **kwargs)
        resolved.append(name)
        resolved_addresses = addresses[name]
        return resolve(
            resolved_addresses.pop(0) if len(resolved_addresses) > 1 else resolved_addresses[0],
            *args,
            **kwargs,
        )

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_HOSTS", "*")
    return resolved


@pytest.mark.parametrize(
    "host",
    [
        *("local.test", "meta.test", "mapped.test", "localhost", "127.0.0.1", "2130706433"),
        *("127.1", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0", "0"),
    ],
)
async def test_name_of_a_private_address_is_rejected(
    service: WebServer, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    resolve_test_names(
        monkeypatch, local=["127.0.0.1"], meta=["169.254.169.254"], mapped=["::ffff:127.0.0.1"]
    )
    with pytest.raises(Fail, match="HEADRACE_HTTP_ALLOWED_NETWORKS") as failure:
        await http_request(Call(url=f"http://{host}:{service.port}/"), async_context())
    assert failure.value.type == "HostNotAllowed"
    assert service.received == []


async def test_name_in_an_allowed_network_is_called(
    service: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second lookup would return another address.
    resolved = resolve_test_names(monkeypatch, inner=["127.0.0.1", "169.254.169.254"])
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_NETWORKS", "127.0.0.1/32")
    url = f"http://INNER.test:{service.port}/a?b=c"
    response = await http_request(Call(url=url), async_context())
    assert response.status == 200
    assert resolved == ["inner"]
    [request] = service.received
    assert (request.path, request.headers["host"]) == ("/a?b=c", f"inner.test:{service.port}")
    # The next attempt resolves the name again and checks the new address.
    with pytest.raises(Fail, match=r"169\.254\.169\.254"):
        await http_request(Call(url=url), async_context())
    assert len(service.received) == 1


async def test_later_addresses_of_a_name_are_tried(
    service: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The service listens only at 127.0.0.1.
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_HOSTS", "two.test")

    def getaddrinfo(_: Any, port: int, *__: Any) -> Any:
        stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*stream, (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", getaddrinfo)
        call = Call(url=f"http://two.test:{service.port}/")
        assert (await http_request(call, async_context())).status == 200


async def test_unknown_name_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_HOSTS", "*")
    with pytest.raises(Retry, match=r"nowhere\.invalid is unreachable"):
        await http_request(Call(url="http://nowhere.invalid/"), async_context())


async def test_malformed_name_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_HOSTS", "*")
    with pytest.raises(Fail) as failure:
        await http_request(Call(url=f"http://{'a' * 64}.example/"), async_context())
    assert failure.value.type == "InvalidRequest"


@pytest.mark.parametrize(("certified", "is_right"), [("shop.test", True), ("127.0.0.1", False)])
async def test_certificate_must_match_the_name(
    monkeypatch: pytest.MonkeyPatch, certified: str, is_right: bool
) -> None:
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    monkeypatch.setattr(handler_module, "tls_context", lambda: trust)
    resolve_test_names(monkeypatch, shop=["127.0.0.1"])
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_NETWORKS", "127.0.0.1/32")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(certified).configure_cert(tls)
    lookups: list[str | None] = []
    tls.sni_callback = lambda _, name, __: lookups.append(name)
    with web_server(tls) as service:
        call = Call(url=f"https://shop.test:{service.port}/")
        if is_right:
            assert (await http_request(call, async_context())).status == 200
        else:
            with pytest.raises(Retry, match="CERTIFICATE_VERIFY_FAILED"):
                await http_request(call, async_context())
        assert len(service.received) == is_right
    assert lookups == ["shop.test"]


async def test_compressed_response_is_decompressed(service: WebServer) -> None:
    service.responder = reply(200, gzip.compress(b"hello"), Content_Encoding="gzip")
    assert (await http_request(Call(url=service.url), async_context())).body == "hello"
    assert service.received[0].headers["accept-encoding"] == "identity"


async def test_service_that_disconnects_is_retried(service: WebServer) -> None:
    service.responder = disconnect
    with pytest.raises(Retry, match="is unreachable"):
        await http_request(Call(url=service.url), async_context())


async def test_unreachable_service_is_retried(service: WebServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(Retry, match=r"127\.0\.0\.1 is unreachable"):
        await http_request(Call(url=f"http://127.0.0.1:{port}/secret-token"), async_context())


async def test_service_that_times_out_is_retried(service: WebServer) -> None:
    release = threading.Event()
    service.responder = lambda _: release.wait(20) and None
    try:
        with pytest.raises(Retry, match=r"did not respond within 0\.2 s"):
            await http_request(Call(url=service.url, timeout=0.2), async_context())
    finally:
        release.set()


@pytest.mark.parametrize(
    "headers",
    [{"Host": "a.example"}, {"Transfer-Encoding": "chunked"}, {"X-A": "b\n"}, {"X-A\n": "b"}],
)
async def test_connection_headers_are_rejected(service: WebServer, headers: dict[str, str]) -> None:
    with pytest.raises(Fail):
        await http_request(Call(url=service.url, headers=headers), async_context())
    assert service.received == []


async def test_idempotency_key_of_the_job_is_used(service: WebServer) -> None:
    call = Call(url=service.url, headers={"idempotency-key": "order-7"})
    await http_request(call, async_context())
    assert service.received[0].headers["idempotency-key"] == "order-7"


async def test_proxy_from_the_environment_is_not_used(
    service: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert (await http_request(Call(url=service.url), async_context())).status == 200

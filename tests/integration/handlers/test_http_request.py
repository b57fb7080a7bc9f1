"""Calls reach a real web server, and its answers mean the right thing for the job."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from typing import Any

import msgspec
import pytest

from headrace_worker import Fail, Retry
from headrace_worker.handlers.http_request import Call, http_request
from support.recording import async_context
from support.web import Site, hang_up, reply, site


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_HOSTS", "127.0.0.1")
    with site() as running:
        yield running


async def test_a_webhook_is_called_once_with_its_job_and_attempt(service: Site) -> None:
    service.answer = reply(
        201, b'{"order": 7}', Content_Type="application/json", X_Request_Id="r1", Set_Cookie="a=b"
    )
    ctx = async_context(number=3)
    answer = await http_request(
        Call(url=f"{service.url}/orders?shop=1", body={"order": 7}, headers={"X-Shop": "1"}), ctx
    )
    assert (answer.status, answer.body, answer.truncated) == (201, '{"order": 7}', False)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "r1"
    assert "set-cookie" not in answer.headers
    (request,) = service.received
    assert (request.method, request.path) == ("POST", "/orders?shop=1")
    assert json.loads(request.body) == {"order": 7}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == str(ctx.attempt.job_id)
    assert request.headers["x-headrace-attempt"] == "3"
    assert request.headers["x-shop"] == "1"


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
async def test_a_body_is_sent_as_text_or_as_json(
    service: Site, payload: dict[str, Any], body: bytes, content_type: str | None
) -> None:
    call = msgspec.convert({"url": service.url, "method": "PUT", **payload}, type=Call)
    await http_request(call, async_context())
    (request,) = service.received
    assert (request.method, request.body) == ("PUT", body)
    assert request.headers.get("content-type") == content_type


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_service_that_is_busy_or_broken_is_tried_again(service: Site, status: int) -> None:
    service.answer = reply(status)
    with pytest.raises(Retry, match=f"answered {status}") as retry:
        await http_request(Call(url=service.url), async_context())
    assert retry.value.after is None


async def test_retry_after_in_seconds_is_honoured(service: Site) -> None:
    service.answer = reply(503, Retry_After="7")
    with pytest.raises(Retry) as retry:
        await http_request(Call(url=service.url), async_context())
    assert retry.value.after == timedelta(seconds=7)


async def test_retry_after_as_a_date_is_honoured(service: Site) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    service.answer = reply(429, Retry_After=date)
    with pytest.raises(Retry) as retry:
        await http_request(Call(url=service.url), async_context())
    assert retry.value.after is not None
    assert timedelta(seconds=80) < retry.value.after <= timedelta(seconds=100)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
async def test_another_refusal_fails(service: Site, status: int) -> None:
    service.answer = reply(status, b"no")
    with pytest.raises(Fail, match=f"answered {status}") as failure:
        await http_request(Call(url=service.url), async_context())
    assert failure.value.type == "HttpStatus"


async def test_a_redirect_is_not_followed(service: Site) -> None:
    service.answer = reply(302, Location="http://elsewhere.example/")
    with pytest.raises(Fail, match=r"redirect to http://elsewhere\.example/"):
        await http_request(Call(url=service.url), async_context())
    assert len(service.received) == 1


async def test_what_is_expected_is_a_success_and_nothing_else(service: Site) -> None:
    service.answer = reply(404)
    answer = await http_request(
        Call(url=service.url, method="DELETE", expected_status=[204, 404]), async_context()
    )
    assert answer.status == 404
    service.answer = reply(200)
    with pytest.raises(Fail, match="answered 200"):
        await http_request(Call(url=service.url, expected_status=[204]), async_context())


async def test_a_long_answer_is_cut_off(service: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HTTP_MAX_RESPONSE_BYTES", "10")
    service.answer = reply(200, b"0123456789")
    answer = await http_request(Call(url=service.url), async_context())
    assert (answer.body, answer.truncated) == ("0123456789", False)
    service.answer = reply(200, b"0123456789a")
    answer = await http_request(Call(url=service.url), async_context())
    assert (answer.body, answer.truncated) == ("0123456789", True)


async def test_an_answer_without_end_is_cut_off(service: Site) -> None:
    gone = threading.Event()

    def pour(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        try:
            while True:
                request.wfile.write(b"x" * 100_000)
        except OSError:
            gone.set()

    service.answer = pour
    answer = await http_request(Call(url=service.url, timeout=20), async_context())
    assert answer.truncated
    assert len(answer.body) == 64 * 1024
    assert gone.wait(20)


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("Grüße".encode(), "text/plain; charset=utf-8", "Grüße"),
        ("Grüße".encode("latin-1"), "text/plain; charset=iso-8859-1", "Grüße"),
        (b"\xff", "application/octet-stream", "\ufffd"),
        (b"a", "text/plain; charset=nonsense", "a"),
    ],
)
async def test_an_answer_is_text_whatever_it_holds(
    service: Site, body: bytes, content_type: str, text: str
) -> None:
    service.answer = reply(200, body, Content_Type=content_type)
    assert (await http_request(Call(url=service.url), async_context())).body == text


async def test_a_compressed_answer_is_not_asked_for_and_understood(service: Site) -> None:
    service.answer = reply(200, gzip.compress(b"hello"), Content_Encoding="gzip")
    assert (await http_request(Call(url=service.url), async_context())).body == "hello"
    assert service.received[0].headers["accept-encoding"] == "identity"


async def test_a_service_that_hangs_up_is_tried_again(service: Site) -> None:
    service.answer = hang_up
    with pytest.raises(Retry, match="cannot be reached"):
        await http_request(Call(url=service.url), async_context())


async def test_a_service_that_is_gone_is_tried_again(service: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Retry, match=r"127\.0\.0\.1 cannot be reached"):
        await http_request(Call(url=f"http://127.0.0.1:{port}/secret-token"), async_context())


async def test_a_service_that_does_not_answer_in_time_is_tried_again(service: Site) -> None:
    let_go = threading.Event()
    service.answer = lambda _: let_go.wait(20) and None
    try:
        with pytest.raises(Retry, match=r"did not answer within 0\.2 s"):
            await http_request(Call(url=service.url, timeout=0.2), async_context())
    finally:
        let_go.set()


@pytest.mark.parametrize(
    "headers",
    [{"Host": "a.example"}, {"Transfer-Encoding": "chunked"}, {"X-A": "b\n"}, {"X-A\n": "b"}],
)
async def test_headers_of_the_connection_are_refused(
    service: Site, headers: dict[str, str]
) -> None:
    with pytest.raises(Fail):
        await http_request(Call(url=service.url, headers=headers), async_context())
    assert service.received == []


async def test_a_job_may_bring_its_own_idempotency_key(service: Site) -> None:
    call = Call(url=service.url, headers={"idempotency-key": "order-7"})
    await http_request(call, async_context())
    assert service.received[0].headers["idempotency-key"] == "order-7"


async def test_a_proxy_of_the_machine_is_not_used(
    service: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert (await http_request(Call(url=service.url), async_context())).status == 200

"""Language model jobs that call a real HTTP endpoint."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from headrace_handlers import ai_endpoint
from headrace_handlers import ai_task as handler_module
from headrace_handlers.ai_task import Task, ai_task
from headrace_worker import Fail, Retry, Stopped
from headrace_worker.api.payload import encode
from support.recording import Recording, async_context
from support.web import Responder, WebServer, disconnect, reply, web_server

SUMMARY = Task(task="summary", text="A long story.")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    with web_server() as running:
        monkeypatch.setenv("HEADRACE_AI_BASE_URL", f"{running.url}/v1")
        monkeypatch.setenv("HEADRACE_AI_API_KEY", "sk-secret")
        monkeypatch.setenv("HEADRACE_AI_MODEL", "small")
        monkeypatch.setenv("HEADRACE_AI_TIMEOUT", "10")
        yield running


def chunk(content: str | None = None, finish_reason: str | None = None, **more: Any) -> bytes:
    """Return a piece of a streamed chat completion."""
    delta = {"role": "assistant"} | ({} if content is None else {"content": content})
    return server_sent_event(
        {
            "id": "c1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "small-2026",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
            **more,
        }
    )


def server_sent_event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


DONE_EVENT = b"data: [DONE]\n\n"
END_EVENTS = (chunk(finish_reason="stop"), DONE_EVENT)


def streaming(*events: bytes | threading.Event) -> Responder:
    """Return a responder that sends byte strings, and waits at threading events between them."""

    def respond(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        request.close_connection = True
        for each in events:
            if isinstance(each, threading.Event):
                each.wait(20)
            else:
                request.wfile.write(each)
                request.wfile.flush()

    return respond


async def test_response_is_emitted_while_it_arrives(endpoint: WebServer) -> None:
    resume = threading.Event()
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    endpoint.responder = streaming(
        chunk(""),
        chunk("A dog"),
        resume,
        chunk(" runs"),
        chunk(" away."),
        chunk(finish_reason="stop"),
        server_sent_event(
            {
                "id": "c1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "small-2026",
                "choices": [],
                "usage": usage,
            }
        ),
        DONE_EVENT,
    )
    recording = Recording()
    job = asyncio.create_task(ai_task(SUMMARY, async_context(recording)))
    async with asyncio.timeout(20):
        await recording.reported.wait()
        assert recording.outputs == ["A dog"]
        resume.set()
        result = await job
    assert "".join(recording.outputs) == result.output == "A dog runs away."
    assert len(recording.outputs) <= 3
    assert (result.provider, result.model, result.finish_reason) == (
        "endpoint",
        "small-2026",
        "stop",
    )
    assert (result.prompt_tokens, result.completion_tokens) == (9, 3)
    (request,) = endpoint.received
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer sk-secret"
    sent = json.loads(request.body)
    assert (sent["model"], sent["stream"]) == ("small", True)
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert sent["messages"][1]["content"] == "A long story."
    assert "max_tokens" not in sent
    assert "temperature" not in sent


async def test_tokens_are_grouped_into_few_outputs(endpoint: WebServer) -> None:
    words = [f"{number} " for number in range(500)]
    endpoint.responder = streaming(*map(chunk, words), *END_EVENTS)
    recording = Recording()
    result = await ai_task(SUMMARY, async_context(recording))
    assert "".join(recording.outputs) == result.output == "".join(words)
    assert len(recording.outputs) < 50


async def test_limits_of_a_prompt_are_sent_to_the_model(endpoint: WebServer) -> None:
    endpoint.responder = streaming(chunk("Leaves fall"), chunk(finish_reason="length"), DONE_EVENT)
    task = Task(task="prompt", prompt="Write a haiku.", max_tokens=2, temperature=0.5)
    result = await ai_task(task, async_context())
    assert (result.output, result.finish_reason, result.label) == ("Leaves fall", "length", None)
    sent = json.loads(endpoint.received[0].body)
    assert sent["messages"] == [{"role": "user", "content": "Write a haiku."}]
    assert (sent["max_tokens"], sent["temperature"]) == (2, 0.5)


async def test_prompt_is_a_system_message_if_there_is_a_text(endpoint: WebServer) -> None:
    endpoint.responder = streaming(chunk("Hund"), *END_EVENTS)
    await ai_task(Task(task="prompt", prompt="Translate.", text="dog"), async_context())
    assert json.loads(endpoint.received[0].body)["messages"] == [
        {"role": "system", "content": "Translate."},
        {"role": "user", "content": "dog"},
    ]


async def test_classification_returns_one_label(endpoint: WebServer) -> None:
    endpoint.responder = streaming(chunk("Re"), chunk("fund."), *END_EVENTS)
    task = Task(task="classification", text="I want my money back", labels=["refund", "praise"])
    result = await ai_task(task, async_context())
    assert (result.label, result.output, result.score) == ("refund", "Refund.", None)
    assert "refund\npraise" in json.loads(endpoint.received[0].body)["messages"][0]["content"]


async def test_classification_without_a_label_is_retried(endpoint: WebServer) -> None:
    endpoint.responder = streaming(chunk("Hm."), *END_EVENTS)
    with pytest.raises(Retry, match="0 of the labels"):
        await ai_task(Task(task="sentiment", text="Well"), async_context())


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_client_does_not_retry_a_busy_endpoint(endpoint: WebServer, status: int) -> None:
    body = b'{"error": {"message": "slow down", "type": "busy"}}'
    endpoint.responder = reply(status, body, Content_Type="application/json", Retry_After="7")
    with pytest.raises(Retry, match=f"returned {status}") as retry:
        await ai_task(SUMMARY, async_context())
    assert retry.value.after == timedelta(seconds=7)
    assert len(endpoint.received) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_error_of_a_rejected_request_omits_the_key(endpoint: WebServer, status: int) -> None:
    body = b'{"error": {"message": "no such model", "type": "invalid"}}'
    endpoint.responder = reply(status, body, Content_Type="application/json")
    with pytest.raises(Fail, match="no such model") as failure:
        await ai_task(SUMMARY, async_context())
    assert failure.value.type == "EndpointRefused"
    assert "sk-secret" not in str(failure.value)


@pytest.mark.parametrize(
    "respond",
    [
        disconnect,
        streaming(chunk("A dog")),
        streaming(chunk("A dog"), DONE_EVENT),
        streaming(chunk("A dog"), server_sent_event({"error": {"message": "overloaded"}})),
        streaming(chunk("A dog"), b"data: {broken\n\n"),
        reply(200, b"<html>Welcome</html>", Content_Type="text/html"),
    ],
)
async def test_incomplete_response_is_retried(endpoint: WebServer, respond: Responder) -> None:
    endpoint.responder = respond
    with pytest.raises(Retry):
        await ai_task(SUMMARY, async_context())


async def test_silent_endpoint_is_retried(
    endpoint: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_AI_TIMEOUT", "0.2")
    release = threading.Event()
    endpoint.responder = streaming(chunk("A dog"), release)
    try:
        with pytest.raises(Retry, match="timed out"):
            await ai_task(SUMMARY, async_context())
    finally:
        release.set()


async def test_unreachable_endpoint_is_retried(
    endpoint: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("HEADRACE_AI_BASE_URL", f"http://127.0.0.1:{port}/v1")
    with pytest.raises(Retry):
        await ai_task(SUMMARY, async_context())


async def test_cancelled_job_stops_at_the_next_chunk(endpoint: WebServer) -> None:
    resume = threading.Event()
    endpoint.responder = streaming(chunk("A dog"), resume, chunk(" runs"), *END_EVENTS)
    recording = Recording()
    ctx = async_context(recording)
    job = asyncio.create_task(ai_task(SUMMARY, ctx))
    async with asyncio.timeout(20):
        await recording.reported.wait()
        ctx.cancel_event.set()
        resume.set()
        with pytest.raises(Stopped):
            await job
    assert recording.outputs == ["A dog"]


async def test_endless_response_fails(endpoint: WebServer) -> None:
    endpoint.responder = streaming(*[chunk("x" * 10_000)] * 11, *END_EVENTS)
    with pytest.raises(Fail, match="max_tokens"):
        await ai_task(SUMMARY, async_context())


async def test_response_too_large_as_json_is_truncated(
    endpoint: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler_module, "max_result_bytes", lambda: 30_000)
    endpoint.responder = streaming(chunk("\x01" * 20_000), *END_EVENTS)
    recording = Recording()
    result = await ai_task(SUMMARY, async_context(recording))
    assert 29_990 < len(encode(result)) <= 30_000
    assert result.note is not None
    assert "".join(recording.outputs) == "\x01" * 20_000


async def test_character_split_between_chunks_is_joined(endpoint: WebServer) -> None:
    endpoint.responder = streaming(
        chunk("a\ud83d"), chunk("\ude00b"), chunk("\ud83dc"), chunk("\ud83d"), *END_EVENTS
    )
    recording = Recording()
    result = await ai_task(SUMMARY, async_context(recording))
    assert result.output == "".join(recording.outputs) == "a😀b\ufffdc\ufffd"


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": None},
        {"choices": "none"},
        {"choices": ["none"]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": ["a"]}, "finish_reason": 7}]},
        {"usage": {"prompt_tokens": "many", "completion_tokens": -1}},
        {"model": ["a"]},
        {"model": "\ud83d" * 100_000},
    ],
)
async def test_malformed_chunk_is_ignored(endpoint: WebServer, odd: dict[str, Any]) -> None:
    endpoint.responder = streaming(chunk("A dog"), chunk(**odd), *END_EVENTS)
    result = await ai_task(SUMMARY, async_context())
    assert result.output == "A dog"
    assert len(encode(result)) < 2_000


@pytest.mark.parametrize("broken", [b"data: \xff\n\n", b"data: {\n\n", b"data: [1]\n\n"])
async def test_malformed_stream_is_retried(endpoint: WebServer, broken: bytes) -> None:
    endpoint.responder = streaming(broken)
    with pytest.raises(Retry):
        await ai_task(SUMMARY, async_context())


async def test_oversized_response_fails(
    endpoint: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ai_endpoint, "_MAX_RESPONSE_BYTES", 1000)
    for respond in (streaming(b"data: " + b"x" * 2000), reply(400, b"x" * 2000)):
        endpoint.responder = respond
        with pytest.raises(Fail, match="exceeds the limit of 1,000 bytes") as failure:
            await ai_task(SUMMARY, async_context())
        assert failure.value.type == "TooLong"
    assert endpoint.received[0].headers["accept-encoding"] == "identity"


async def test_endpoint_without_a_key_receives_no_key(
    endpoint: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_AI_API_KEY", "")
    endpoint.responder = streaming(chunk("A dog."), *END_EVENTS)
    assert (await ai_task(SUMMARY, async_context())).output == "A dog."

"""The limits of request bodies: size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from starlette.types import Message, Receive, Scope, Send

from headrace_web.middleware import BodyLimit
from headrace_web.problems import Problem


class Reader:
    """An application that reads a body, and then waits for the end of the connection."""

    def __init__(self) -> None:
        self.body = b""
        self.ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            self.body += message["body"]
            more = message["more_body"]
        await receive()
        self.ended = True


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def run(reader: Reader, messages: Iterable[Message], *, silence: float = 60.0) -> None:
    """Send messages to the application, with a silence before the end of the connection."""
    waiting = list(messages)

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.sleep(silence)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError("nothing is sent")

    scope: Scope = {"type": "http", "headers": [], "state": {"request_id": "r"}}
    await BodyLimit(reader, max_bytes=10, timeout=0.05)(scope, receive, send)


async def test_body_that_arrives_too_slowly_is_rejected() -> None:
    reader = Reader()
    with pytest.raises(Problem) as caught:
        await run(reader, [part(b"12")])
    assert caught.value.status == 408
    assert reader.body == b"12"


async def test_connection_may_stay_open_after_the_body() -> None:
    reader = Reader()
    await run(reader, [part(b"12"), part(b"34", more=False)], silence=0.2)
    assert reader.body == b"1234"
    assert reader.ended


async def test_body_above_the_limit_is_rejected() -> None:
    with pytest.raises(Problem) as caught:
        await run(Reader(), [part(b"123456"), part(b"789012", more=False)])
    assert caught.value.status == 413

"""Server-Sent Events: the format, and a response that streams them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace.errors import CallError
from headrace_core.runtime.tasks import end_tasks
from headrace_web.problems import problem_of
from headrace_web.rest.documents import encode

MEDIA_TYPE: Final = "text/event-stream"

# Longest wait for the first messages before the response starts, in seconds. Until then, an error
# is an HTTP error. A browser waits on an open stream, but gives up after an error.
_FIRST_S: Final = 5.0
# Longest silence, in seconds; proxies often close a connection after 30 s or more.
_SILENCE_S: Final = 15.0
# Longest wait for a reader to accept a message, in seconds; the same as HEADRACE_STREAM_PATIENCE.
_PATIENCE_S: Final = 60.0
# A browser reconnects after this time, in milliseconds.
_RETRY: Final = b"retry: 1000\n\n"
_SILENCE: Final = b": waiting\n\n"
_HEADERS: Final = {
    "cache-control": "no-store",
    # Proxies based on nginx would collect messages.
    "x-accel-buffering": "no",
}


class Feed(Protocol):
    """The messages of a stream."""

    async def next(self) -> bytes | None:
        """Return the next messages; None after the last one. The wait can be cancelled.

        Raises:
            CallError: the gateway has rejected or ended the stream.
        """

    async def aclose(self) -> None:
        """End the stream."""


def message(*, event: str = "", id: str = "", document: Any = None) -> bytes:  # noqa: A002 - the field's name
    """Return a message.

    Args:
        event: the type of the message; empty for a message without data, which only sets the id.
        id: the id; empty to keep the id of the message before.
        document: the data, for `encode`.
    """
    lines = []
    if id:
        lines.append(f"id: {id}\n".encode())
    if event:
        # Line breaks of a document are between its tokens, never within a string.
        data = encode(document).replace(b"\r", b" ").replace(b"\n", b" ")
        lines += [f"event: {event}\n".encode(), b"data: ", data, b"\n"]
    return b"".join((*lines, b"\n"))


async def open_stream(feed: Feed, *, request: Request, stopping: asyncio.Event) -> Response:
    """Return a response with the messages of a feed.

    Args:
        feed: the messages; closed with the response.
        request: the request.
        stopping: set when the service stops; the response then ends, and the browser reconnects.

    Raises:
        Problem: the gateway has rejected the stream.
    """
    first: Sequence[bytes] = ()
    try:
        async with asyncio.timeout(_FIRST_S):
            received = await feed.next()
    except TimeoutError:
        pass
    except CallError as error:
        await feed.aclose()
        raise problem_of(error.refusal) from None
    except BaseException:
        await feed.aclose()
        raise
    else:
        if received is None:
            await feed.aclose()
            # A browser that receives this status does not reconnect.
            return Response(status_code=204)
        first = (received,)
    return _EventStreamResponse(
        feed, first=first, request_id=request.state.request_id, stopping=stopping
    )


class _EventStreamResponse(Response):
    def __init__(
        self, feed: Feed, *, first: Sequence[bytes], request_id: str, stopping: asyncio.Event
    ) -> None:
        super().__init__(media_type=MEDIA_TYPE, headers=_HEADERS)
        del self.headers["content-length"]
        self._feed = feed
        self._first = first
        self._request_id = request_id
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - of ASGI
        tasks = (
            asyncio.create_task(self._send_all(send)),
            asyncio.create_task(_wait_for_disconnect(receive)),
            asyncio.create_task(self._stopping.wait()),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(*tasks)
            await self._feed.aclose()
        sending = tasks[0]
        if sending.cancelled() or sending.exception() is None:
            # Without this, the server would report a response that did not end.
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await _send(send, b"".join((_RETRY, *self._first)))
        while True:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    chunk = await self._feed.next()
            except TimeoutError:
                chunk = _SILENCE
            except CallError as error:
                problem = problem_of(error.refusal).document(self._request_id)
                await _send(send, message(event="problem", document=problem))
                return
            if chunk is None:
                return
            await _send(send, chunk)


async def _send(send: Send, chunk: bytes) -> None:
    """Send a part of the body.

    Raises:
        TimeoutError: the reader does not accept it.
    """
    async with asyncio.timeout(_PATIENCE_S):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

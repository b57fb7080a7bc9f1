"""An EventSource: reads Server-Sent Events as a browser does, and reconnects with the last id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2


@dataclass(frozen=True)
class SseMessage:
    """A dispatched message."""

    event: str
    data: Any
    id: str


@dataclass
class EventSource:
    """A browser's connection to an event stream.

    Args:
        url: the URL.
        headers: additional headers of each request.
        last_event_id: the id of the last message received.
        limit: returns the number of bytes after which a response is cut; None for no cut.
        connects: the number of requests.
        status: the status of the last response.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    last_event_id: str = ""
    limit: Callable[[], int | None] = lambda: None
    connects: int = 0
    status: int = 0

    async def messages(
        self, *, reconnect: bool = True, pause: float = 0.05
    ) -> AsyncIterator[SseMessage]:
        """Yield messages. As in a browser, only a status other than 200 ends them.

        Args:
            reconnect: whether to connect again after the end of a response.
            pause: the wait before a reconnect, in seconds.
        """
        timeout = httpx2.Timeout(30, read=60)
        async with httpx2.AsyncClient(trust_env=False, timeout=timeout) as client:
            while True:
                self.connects += 1
                try:
                    async with client.stream("GET", self.url, headers=self._headers()) as response:
                        self.status = response.status_code
                        if response.status_code != 200:
                            await response.aread()
                            return
                        async for message in self._parse(response):
                            yield message
                except httpx2.TransportError:
                    pass
                if not reconnect:
                    return
                await asyncio.sleep(pause)

    def _headers(self) -> dict[str, str]:
        headers = {"accept": "text/event-stream", **self.headers}
        if self.last_event_id:
            headers["last-event-id"] = self.last_event_id
        return headers

    async def _parse(self, response: httpx2.Response) -> AsyncIterator[SseMessage]:
        """Yield the complete messages of a response; see the HTML standard, section 9.2.6."""
        event, data, last_id = "", [], self.last_event_id
        buffer = b""
        left = self.limit()
        async for chunk in response.aiter_raw():
            buffer += chunk[:left]
            left = None if left is None else left - len(chunk)
            while b"\n" in buffer:
                raw, _, buffer = buffer.partition(b"\n")
                line = raw.decode()
                if line:
                    name, _, value = line.partition(":")
                    value = value.removeprefix(" ")
                    match name:
                        case "event":
                            event = value
                        case "data":
                            data.append(value)
                        case "id":
                            last_id = value
                    continue
                self.last_event_id = last_id
                if data:
                    yield SseMessage(event or "message", json.loads("\n".join(data)), last_id)
                event, data = "", []
            if left is not None and left <= 0:
                return

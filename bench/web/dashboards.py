"""Open dashboards: connections that read a feed, as the pages do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from bench.child import IDLE_S, Link

_OPEN_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """The feed of a dashboard.

    Attributes:
        path: the path and the query of the feed.
        key: an API key; empty without access control.
    """

    path: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """The bytes and the parts of bodies that all dashboards have received."""

    bytes: int
    parts: int


async def read(link: Link, address: str, dashboards: Sequence[Dashboard]) -> None:
    """Open dashboards and read them until the process is stopped.

    Args:
        link: sends Received after all feeds have started, and again after each request.
        address: `host:port` of the web service.
        dashboards: the feeds.
    """
    host, port = address.rsplit(":", 1)
    connections = [_Connection(address, each) for each in dashboards]
    loop = asyncio.get_running_loop()
    for connection in connections:
        await loop.create_connection(partial(_itself, connection), host, int(port))
    async with asyncio.timeout(_OPEN_TIMEOUT_S):
        await asyncio.gather(*(connection.started for connection in connections))
    while True:
        link.send(
            Received(
                bytes=sum(each.bytes for each in connections),
                parts=sum(each.parts for each in connections),
            )
        )
        await link.receive(str, timeout=IDLE_S)


def _itself(connection: _Connection) -> _Connection:
    return connection


class _Connection(asyncio.Protocol):
    def __init__(self, address: str, dashboard: Dashboard) -> None:
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.bytes = self.parts = 0
        self._address = address
        self._dashboard = dashboard

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        key = self._dashboard.key
        lines = (
            f"GET {self._dashboard.path} HTTP/1.1",
            f"host: {self._address}",
            "accept: text/event-stream",
            *([f"authorization: Bearer {key}"] if key else []),
        )
        transport.write("\r\n".join((*lines, "", "")).encode())

    def data_received(self, data: bytes) -> None:
        if not self.parts and not data.startswith(b"HTTP/1.1 200"):
            self.started.set_exception(ConnectionError(data[:500].decode(errors="replace")))
        self.bytes += len(data)
        self.parts += 1
        if b"event: " in data and not self.started.done():
            self.started.set_result(None)

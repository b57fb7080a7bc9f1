"""Metrics, served over HTTP in Prometheus's format."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server


class MetricsServer:
    """Serves a registry on an address of its own.

    Args:
        address: `host:port`; port 0 takes any free one.
        registry: what is served. What it collects is read in another thread.
    """

    def __init__(self, *, address: str, registry: CollectorRegistry) -> None:
        self._host, _, port = address.rpartition(":")
        self._requested = int(port)
        self._registry = registry
        self._server: WSGIServer | None = None
        self._join: Callable[[float], None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on, once it is started."""
        assert self._server is not None
        return self._server.server_port

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: the address cannot be had.
        """
        host = self._host.strip("[]")
        server, thread = start_http_server(self._requested, host, self._registry)
        self._server, self._join = server, thread.join

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None and self._join is not None:
            server, self._server = self._server, None
            await asyncio.to_thread(server.shutdown)
            server.server_close()
            await asyncio.to_thread(self._join, 5.0)

"""Metrics, served over HTTP in Prometheus's format."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

_PATH: Final = "/metrics"

# How long a client may take for its request and for each part of the answer, in seconds.
_TIMEOUT: Final = 5.0
# How often the server looks whether it shall stop, and how long that may take at most.
_POLL: Final = 0.2
_STOP: Final = 5.0


def registry_of(*collectors: Collector) -> CollectorRegistry:
    """A registry of what a service tells of itself, and of its process.

    Args:
        collectors: read when somebody asks, in whichever thread. No label may have a value that a
            client chooses.
    """
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class MetricsServer:
    """Serves a registry under /metrics, on an address of its own and in threads of its own.

    So it answers also while the event loop is busy.

    Args:
        address: `host:port`; port 0 takes any free one. Only this address is listened to. Empty:
            nothing is served, and starting it does nothing.
        registry: what is served. What it collects is read in another thread.
    """

    def __init__(self, *, address: str, registry: CollectorRegistry) -> None:
        self._address = address
        self._registry = registry
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 while it does not."""
        return self._server.server_port if self._server is not None else 0

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: the address cannot be had.
        """
        if not self._address:
            return
        host, _, port = self._address.rpartition(":")
        host = host.strip("[]")
        self._server = make_server(
            host,
            int(port),
            _only_metrics(make_wsgi_app(self._registry)),
            _ServerV6 if _is_v6(host) else _Server,
            _Handler,
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL,), name="metrics", daemon=True
        )
        self._thread.start()

    async def stop(self) -> None:
        """Stops listening; who is being answered gets the answer."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            # It waits for the thread to come round, which nothing that is asked of it can delay.
            await asyncio.to_thread(server.shutdown)
            server.server_close()
            await asyncio.to_thread(self._thread.join, _STOP)


class _Server(ThreadingWSGIServer):
    def server_bind(self) -> None:
        """Binds, and asks no name server for its own name, as the base does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or took too long is of no interest."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Requests are not logged."""

    def address_string(self) -> str:
        """The address as it is: nobody asks a name server for it."""
        return str(self.client_address[0])


_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def _only_metrics(metrics: _Application) -> _Application:
    def application(environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == _PATH:
            return metrics(environ, respond)
        respond("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"metrics are served under /metrics\n"]

    return application


def _is_v6(host: str) -> bool:
    try:
        return isinstance(ipaddress.ip_address(host), ipaddress.IPv6Address)
    except ValueError:
        return False

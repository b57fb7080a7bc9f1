"""Metrics, served over HTTP or HTTPS in the Prometheus format."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from socketserver import TCPServer
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    Metric,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from headrace_core.runtime.loop import LoopRecords

_PATH: Final = "/metrics"

# Time limit for reading a request and for sending each part of the response, in seconds.
_TIMEOUT_S: Final = 5.0
# Seconds between two checks for a stop, and the time limit for stopping.
_POLL_S: Final = 0.2
_STOP_S: Final = 5.0


def registry_of(*collectors: Collector) -> CollectorRegistry:
    """Return a registry with the metrics of a service and its process.

    Args:
        collectors: the metrics, collected in any thread at each request. Clients must not be able
            to choose the values of labels.
    """
    registry = CollectorRegistry()
    for collector in (_BuildInfo(), *collectors):
        registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class _BuildInfo(Collector):
    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "headrace_build_info", "The version of this process; always 1.", labels=["version"]
        )
        info.add_metric([version("headrace-core")], 1)
        yield info


class LoopMetrics(Collector):
    """The metrics of a service's loops.

    Args:
        records: the records of the loops, with monotonic times.
    """

    def __init__(self, records: LoopRecords) -> None:
        self._records = records

    def collect(self) -> Iterator[Metric]:
        """Yield the runs, the failures and the time since the last success of each loop."""
        runs = CounterMetricFamily(
            "headrace_loop_runs", "Successful runs of a loop.", labels=["loop"]
        )
        failures = CounterMetricFamily(
            "headrace_loop_failures", "Failed runs of a loop.", labels=["loop"]
        )
        age = GaugeMetricFamily(
            "headrace_loop_last_success_seconds",
            "Seconds since the last successful run of a loop that is running.",
            labels=["loop"],
        )
        now = time.monotonic()
        # The copy is atomic: the event loop's thread cannot interrupt it.
        for name, record in list(self._records.items()):
            runs.add_metric([name], record.runs.count)
            failures.add_metric([name], record.failures.count)
            if record.running:
                age.add_metric([name], max(0.0, now - record.last_success))
        yield from (runs, failures, age)


class MetricsServer:
    """Serves a registry under /metrics, on a separate address and in separate threads.

    It responds even while the event loop is busy.

    Args:
        address: `host:port`; port 0 selects a free port. The server listens on this address only.
            If it is empty, `start` does nothing.
        registry: the metrics, collected in another thread.
        tls: the TLS context; None for no TLS.
    """

    def __init__(
        self, *, address: str, registry: CollectorRegistry, tls: ssl.SSLContext | None = None
    ) -> None:
        self._address = address
        self._registry = registry
        self._tls = tls
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port of the server; 0 while it is not listening."""
        return self._server.server_port if self._server is not None else 0

    async def start(self) -> None:
        """Start listening.

        Raises:
            OSError: the address cannot be bound.
        """
        if not self._address:
            return
        host, _, port = self._address.rpartition(":")
        host = host.strip("[]")
        server_class = _ServerV6 if _is_v6(host) else _Server
        application = _serve_metrics_path(make_wsgi_app(self._registry))
        server = make_server(host, int(port), application, server_class, _Handler)
        server.tls = self._tls
        self._server = server
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    async def stop(self) -> None:
        """Stop listening; open requests still receive their responses."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            # Each request has its own thread, so it cannot delay the shutdown.
            await asyncio.to_thread(server.shutdown)
            server.server_close()
            await asyncio.to_thread(self._thread.join, _STOP_S)


class _Server(ThreadingWSGIServer):
    tls: ssl.SSLContext | None = None

    def server_bind(self) -> None:
        """Bind without the host name lookup of the base class."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in its own thread, so a slow handshake delays no other client."""
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_Handler.timeout)
        with self.tls.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnected, timed out or do not speak TLS."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Do not log requests."""

    def address_string(self) -> str:
        """Return the address without a name lookup."""
        return str(self.client_address[0])


_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def _serve_metrics_path(metrics: _Application) -> _Application:
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

"""The HTTP server: uvicorn, started and stopped by the service instead of by signals."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from headrace_core.runtime.tasks import end_tasks

# The largest head of a request, in bytes. A token can have several kilobytes.
_MAX_HEAD_BYTES: Final = 64 * 1024
# Seconds after which a connection without a request is closed.
_KEEP_ALIVE_S: Final = 75
# Milliseconds after which the kernel closes a connection whose client accepts no data.
_PATIENCE_MS: Final = 60_000
# Seconds that open connections may take beyond the grace period.
_STOP_MARGIN_S: Final = 5.0


class HttpServer:
    """Serves an ASGI application over HTTP/1.1.

    Args:
        app: the application.
        address: `host:port`; port 0 selects a free port.
        grace: seconds that open requests have to end when the server stops.
        max_connections: the maximum number of connections; further requests get the status 503.
        head_timeout: seconds within which the head of a request must arrive.
        trusted_proxies: networks whose headers `x-forwarded-for` and `x-forwarded-proto` are used.
        tls: the TLS context; None for no TLS.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        address: str,
        grace: float,
        max_connections: int,
        head_timeout: float,
        trusted_proxies: Sequence[str] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        # Strangers could fill the log with its warnings about malformed requests.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            app,
            http=partial(_Protocol, head_timeout=head_timeout),  # type: ignore[arg-type] # called only
            limit_concurrency=max_connections,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            # Other callers could choose their own address.
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(grace)),
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            ssl_context_factory=None if tls is None else lambda _, __: tls,
        )
        self._address = address
        self._grace = grace
        self._server = _Server(config)
        self._running: asyncio.Task[None] | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port; 0 before the start."""
        return self._port

    async def start(self) -> None:
        """Listen, and return once the server accepts connections.

        Raises:
            OSError: the address cannot be bound.
        """
        listener = _bind(self._address)
        self._port = listener.getsockname()[1]
        self._running = asyncio.create_task(self._server.serve([listener]), name="http-server")
        await self._server.listening.wait()

    async def stop(self) -> None:
        """Stop listening; open requests have the grace period to end."""
        if self._running is None:
            return
        self._server.stopping.set()
        await asyncio.wait({self._running}, timeout=self._grace + _STOP_MARGIN_S)
        await end_tasks(self._running, within=1.0)
        self._running = None


class _Protocol(H11Protocol):
    """A connection that is closed if the head of a request takes too long."""

    def __init__(self, *args: Any, head_timeout: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_timeout = head_timeout
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the base
        """Wait for the first request."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Handle a part of a request."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            # The head is incomplete.
            self._start_timer()
        else:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        # Further bytes do not extend the time.
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_timeout, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Server(uvicorn.Server):
    """A server that events start and stop. An idle server does not wake up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        """Wait for the stop."""
        await self.stopping.wait()


def _bind(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if _is_v6(host) else socket.AF_INET
    listener = socket.create_server((host, int(port)), family=family, backlog=2048)
    # Connections inherit the options.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PATIENCE_MS)
    return listener


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False

"""The gateways of a client, each with a channel. The client uses one gateway at a time."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import grpc
from grpc import aio

from headrace import __version__, _process
from headrace._messages import message_class
from headrace._proxy import is_loopback, proxy_for
from headrace._submits import SharedSubmits
from headrace.errors import WrongEventLoop
from headrace.tls import TLS
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.audit_service_pb2_grpc import AuditServiceStub
from headrace.v1.handler_service_pb2_grpc import HandlerServiceStub
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.monitor_service_pb2_grpc import MonitorServiceStub
from headrace.v1.session_service_pb2_grpc import SessionServiceStub
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from headrace.v1.tenant_service_pb2_grpc import TenantServiceStub
from headrace.v1.user_service_pb2_grpc import UserServiceStub

DEFAULT_TARGET: Final = "127.0.0.1:50051"
_MEBIBYTE: Final = 1024 * 1024
# A gateway limits the calls of a connection (HEADRACE_MAX_CONCURRENT_STREAMS). At this limit, a
# channel opens another connection, up to this number. Beyond it, calls wait for others to end.
_MAX_CONNECTIONS: Final = 100
_SERVICE_CONFIG: Final = json.dumps(
    {"connectionScaling": {"maxConnectionsPerSubchannel": _MAX_CONNECTIONS}}
)

_HealthCheckRequest: Final = message_class("HealthCheckRequest")
_HealthCheckResponse: Final = message_class("HealthCheckResponse")


def health_request(service: str) -> Any:
    """Return a health request (grpc.health.v1) for a service; "" means the whole gateway."""
    return _HealthCheckRequest(service=service)


def parse_targets(target: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the given targets, the targets in HEADRACE_TARGET, or the default target.

    Raises:
        ValueError: `target` is empty.
    """
    if target is None:
        target = os.environ.get("HEADRACE_TARGET") or DEFAULT_TARGET
    parts = target.split(",") if isinstance(target, str) else target
    targets = tuple(stripped for part in parts if (stripped := part.strip()))
    if not targets:
        raise ValueError("target is empty; use host:port, or several separated by commas")
    return targets


def _channel_options(target: str) -> list[tuple[str, int | str]]:
    return [
        # A proxy cannot reach this machine's loopback addresses.
        *([("grpc.enable_http_proxy", 0)] if is_loopback(target) else []),
        # Detect a dead connection within 30 s, even if only a quiet watch uses the connection. The
        # gateway allows shorter intervals.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # gRPC takes the ping timeout from this option (default: one minute), not from
        # keepalive_timeout_ms.
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # Responses have at most 4 MiB; older gateways may send larger responses.
        ("grpc.max_receive_message_length", 16 * _MEBIBYTE),
        # The gateway rejects large requests and reports the limit.
        ("grpc.max_send_message_length", -1),
        # Reconnect to a restarted gateway within one second (default: up to two minutes), and give
        # up on an unresponsive gateway after five seconds (default: twenty).
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.max_connections_per_subchannel_cap", _MAX_CONNECTIONS),
        ("grpc.primary_user_agent", f"headrace-python/{__version__}"),
    ]


@cache
def _keep_completion_queue() -> None:
    """Keep gRPC's queue of completed calls until the process ends.

    gRPC shuts the queue down with the last channel, and the event loop then blocks until the
    queue's thread has ended. Sometimes that thread never ends (grpc/grpc issue 22365).
    """
    aio.init_grpc_aio()  # type: ignore[attr-defined] # the stubs lack it


class Gateway:
    """A channel to one gateway, and its stubs.

    Args:
        target: the address of the gateway.
        tls: the certificates of the channel; None for plaintext.

    Attributes:
        proxy: the channel's HTTP proxy, as `http_proxy=host:port`; empty without a proxy.

    Raises:
        ForkedProcess, MonkeyPatched: gRPC cannot work in this process.
        OSError: a certificate cannot be read.
    """

    def __init__(self, target: str, tls: TLS | None = None) -> None:
        _process.record_connection()
        _keep_completion_queue()
        self.proxy = proxy_for(target)
        self._tls = tls
        self._versions: object = ()
        options = _channel_options(target)
        if tls is None:
            self.channel = aio.insecure_channel(target, options=options)
        else:
            self._versions = tls.versions()
            ca, cert, key = tls.read()
            self.channel = aio.secure_channel(
                target, grpc.ssl_channel_credentials(ca, key, cert), options=options
            )
        self.jobs = JobServiceStub(self.channel)
        self.submit = SharedSubmits(self.jobs)
        self.handlers = HandlerServiceStub(self.channel)
        self.subscriptions = SubscriptionServiceStub(self.channel)
        self.audit = AuditServiceStub(self.channel)
        self.access = AccessServiceStub(self.channel)
        self.sessions = SessionServiceStub(self.channel)
        self.users = UserServiceStub(self.channel)
        self.tenants = TenantServiceStub(self.channel)
        self.monitor = MonitorServiceStub(self.channel)
        self.health: aio.UnaryUnaryMultiCallable[Any, Any] = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=_HealthCheckRequest.SerializeToString,
            response_deserializer=_HealthCheckResponse.FromString,
        )

    def has_new_certificates(self) -> bool:
        """Return whether the certificates of this channel have changed since it was created."""
        try:
            return self._tls is not None and self._tls.versions() != self._versions
        except OSError:
            return False


class Gateways:
    """The gateways of a client, all of the same installation.

    The client uses the first gateway until that gateway fails, then the next gateway, round robin.
    All gateways belong to the event loop that first uses them.

    Args:
        targets: the addresses of the gateways.
        tls: the certificates of the connections; None for plaintext.
    """

    def __init__(self, targets: Sequence[str], tls: TLS | None = None) -> None:
        self.targets = tuple(targets)
        self._tls = tls
        self._open: dict[int, Gateway] = {}
        self._index = 0
        self._closed = False
        # The event loop of the gateways, and the name of its thread.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = ""
        _process.register(self)

    def abandon(self) -> object:
        """Drop the channels in a forked child."""
        left = self._open, self._loop
        self._open, self._loop = {}, None
        return left

    def switch_from(self, gateway: Gateway) -> bool:
        """Switch from `gateway` to the next gateway, unless another call has already done so.

        Returns:
            Whether a different gateway is in use now.
        """
        if self._open.get(self._index) is gateway:
            if gateway.has_new_certificates():
                # Calls on the old channel continue; it is closed when they have ended.
                del self._open[self._index]
            self._index = (self._index + 1) % len(self.targets)
        return self._open.get(self._index) is not gateway

    def check(self) -> None:
        """Reject a call from a forked process or a different event loop.

        Raises:
            ForkedProcess: this process is a fork of a process that has connected.
            WrongEventLoop: the gateways belong to a different event loop.
        """
        _process.check_forked()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._thread = loop, threading.current_thread().name
        elif self._loop is not loop:
            raise WrongEventLoop(
                f"this client belongs to the event loop {self._loop!r} of thread "
                f"{self._thread!r}, and was called from {loop!r} of thread "
                f"{threading.current_thread().name!r}; create a client in each event loop, or use "
                "SyncClient, which any thread may call"
            )

    def current(self) -> Gateway:
        """Return the gateway in use; its channel connects on demand.

        Raises:
            ForkedProcess, MonkeyPatched, WrongEventLoop: gRPC does not work here.
            RuntimeError: the client is closed.
        """
        if self._closed:
            raise RuntimeError("this client is closed")
        self.check()
        if self._index not in self._open:
            self._open[self._index] = Gateway(self.targets[self._index], self._tls)
        return self._open[self._index]

    async def close(self) -> None:
        """Close all channels and cancel their calls.

        Raises:
            WrongEventLoop: the gateways belong to a different event loop that is still running.
        """
        if self._open and self._loop is not None and self._loop.is_running():
            self.check()
        self._closed = True
        gateways = list(self._open.values())
        self._open.clear()
        await asyncio.gather(*(gateway.channel.close(None) for gateway in gateways))

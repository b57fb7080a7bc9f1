"""The gateways of a client: one channel each, one of them in use."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from grpc import aio

from headrace import __version__, _process
from headrace._messages import message_class
from headrace._proxy import is_loopback, proxy_for
from headrace.errors import WrongEventLoop
from headrace.v1.handler_service_pb2_grpc import HandlerServiceStub
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub

DEFAULT_TARGET: Final = "127.0.0.1:50051"
_MEBIBYTE: Final = 1024 * 1024

_HealthCheckRequest: Final = message_class("HealthCheckRequest")
_HealthCheckResponse: Final = message_class("HealthCheckResponse")


def health_request(service: str) -> Any:
    """Asks whether a service serves (grpc.health.v1); an empty one is the whole gateway."""
    return _HealthCheckRequest(service=service)


def parse_targets(target: str | Sequence[str] | None) -> tuple[str, ...]:
    """The targets that were given, or those of HEADRACE_TARGET, or the default.

    Raises:
        ValueError: none was given.
    """
    if target is None:
        target = os.environ.get("HEADRACE_TARGET") or DEFAULT_TARGET
    parts = target.split(",") if isinstance(target, str) else target
    targets = tuple(stripped for part in parts if (stripped := part.strip()))
    if not targets:
        raise ValueError("target must be host:port, or several of them")
    return targets


def _options(target: str) -> list[tuple[str, int | str]]:
    return [
        # A proxy cannot reach this machine's loopback addresses.
        *([("grpc.enable_http_proxy", 0)] if is_loopback(target) else []),
        # A silent connection is found dead within half a minute, also while only a quiet watch uses
        # it. The interval is above the minimum that the gateway allows.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # What really ends the wait for the answer; by default a minute, whatever stands above.
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # No response of a gateway is larger than 4 MiB. One of an older version may be.
        ("grpc.max_receive_message_length", 16 * _MEBIBYTE),
        # The gateway judges what is too large, and names the limit.
        ("grpc.max_send_message_length", -1),
        # A gateway that came back is used again within a second (the default is up to two minutes),
        # and one that does not answer is given up after five (the default is twenty).
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.primary_user_agent", f"headrace-python/{__version__}"),
    ]


@cache
def _keep_completion_queue() -> None:
    """Keeps what all channels of a process share for as long as it lives.

    It would be shut down with the last of them: then the event loop stands still until a thread has
    ended, which now and then it never does (grpc/grpc issue 22365).
    """
    aio.init_grpc_aio()  # type: ignore[attr-defined] # the stubs lack it


class Gateway:
    """A channel to one gateway, and its stubs.

    Attributes:
        proxy: the proxy that the channel goes through, as `http_proxy=host:port`; empty: none.

    Raises:
        ForkedProcess, MonkeyPatched: gRPC cannot work in this process.
    """

    def __init__(self, target: str) -> None:
        _process.connect()
        _keep_completion_queue()
        self.proxy = proxy_for(target)
        self.channel = aio.insecure_channel(target, options=_options(target))
        self.jobs = JobServiceStub(self.channel)
        self.handlers = HandlerServiceStub(self.channel)
        self.subscriptions = SubscriptionServiceStub(self.channel)
        self.health: aio.UnaryUnaryMultiCallable[Any, Any] = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=_HealthCheckRequest.SerializeToString,
            response_deserializer=_HealthCheckResponse.FromString,
        )


class Gateways:
    """The gateways that a client may use, all of the same installation.

    The first one is used until it fails, then the next one, and so on in a circle. They belong to
    the event loop that first uses them.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self.targets = tuple(targets)
        self._open: dict[int, Gateway] = {}
        self._index = 0
        self._closed = False
        # The loop that they belong to, and the name of its thread.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = ""
        _process.own(self)

    def abandon(self) -> object:
        """Drop the channels in a forked child."""
        left = self._open, self._loop
        self._open, self._loop = {}, None
        return left

    def leave(self, gateway: Gateway) -> bool:
        """Switch to the next gateway, unless another call has left `gateway` already.

        Returns whether another one is in use now: with a single target there is none.
        """
        if self._open.get(self._index) is gateway:
            self._index = (self._index + 1) % len(self.targets)
        return self._open.get(self._index) is not gateway

    def check(self) -> None:
        """Refuse a call that cannot work here.

        Raises:
            ForkedProcess: this process was forked from one that was connected.
            WrongEventLoop: they belong to another event loop.
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
        """The gateway in use; its channel connects by itself.

        Raises:
            ForkedProcess, MonkeyPatched, WrongEventLoop: it cannot work here.
            RuntimeError: the client is closed.
        """
        if self._closed:
            raise RuntimeError("this client is closed")
        self.check()
        if self._index not in self._open:
            self._open[self._index] = Gateway(self.targets[self._index])
        return self._open[self._index]

    async def close(self) -> None:
        """Closes every channel; calls that still run are cancelled.

        Raises:
            WrongEventLoop: they belong to another event loop, which still runs.
        """
        if self._open and self._loop is not None and self._loop.is_running():
            self.check()
        self._closed = True
        gateways = list(self._open.values())
        self._open.clear()
        await asyncio.gather(*(gateway.channel.close(None) for gateway in gateways))

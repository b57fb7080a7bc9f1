"""Closes connections that send much and make no calls.

gRPC discards floods of settings, pings, resets, and headers that never end, but does not close
their connections, and reports nothing about them. Therefore, a loop compares the bytes that the
kernel has received on each connection with the bytes of its calls.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import structlog

from headrace_core.runtime.loop import Loop

_log = structlog.get_logger()

# The address and the port of a client.
_Peer: TypeAlias = "tuple[str, int]"

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_FILES: Final = Path("/proc/self/fd")
# The position of `tcpi_bytes_received` in `struct tcp_info` (linux/tcp.h), since Linux 4.1.
_BYTES_RECEIVED: Final = struct.Struct("=128xQ")
# A socket address of the family AF_UNSPEC.
_NO_ADDRESS: Final = struct.pack("=H14x", socket.AF_UNSPEC)
# Seconds between two runs, and the maximum share of the time that they take.
_INTERVAL: Final = 2.0
_MAX_SHARE: Final = 0.02
# The maximum number of addresses in a log line.
_LOGGED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodLimits:
    """The limits of bytes without calls.

    Attributes:
        rate: bytes per second that every connection may send.
        excess: bytes beyond that rate.
        patience: seconds for which a connection may exceed both, because the bytes of large
            requests arrive before their calls.
    """

    rate: int = 1024 * 1024
    excess: int = 16 * 1024 * 1024
    patience: float = 10.0


DEFAULT_FLOOD_LIMITS: Final = FloodLimits()


class Calls(Protocol):
    """Counts the bytes of calls."""

    def take(self) -> Mapping[str, int]:
        """Return the bytes since the last `take`, by the port of the client."""


@dataclass(slots=True)
class _Connection:
    received: int
    excess: float
    exceeded_since: float | None


class FloodGuard(Loop):
    """Closes connections that send more than their limits without calls, on Linux.

    Args:
        ports: the ports of the gateway.
        calls: counts the bytes of calls.
        limits: the limits of a connection.
        clock: returns monotonic seconds.

    Attributes:
        closed: the number of closed connections.
    """

    name = "floods"

    def __init__(
        self,
        *,
        ports: Collection[int],
        calls: Calls,
        limits: FloodLimits = DEFAULT_FLOOD_LIMITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ports = frozenset(ports)
        self._calls = calls
        self._limits = limits
        self._clock = clock
        self._connections: dict[_Peer, _Connection] = {}
        self._last_run = clock()
        self.closed = 0

    async def run_once(self) -> float:
        """Measure all connections, and close those that exceed their limits."""
        started = time.monotonic()
        received = await asyncio.to_thread(_read_received, self._ports)
        now, calls, limits = self._clock(), self._calls.take(), self._limits
        elapsed, self._last_run = now - self._last_run, now
        connections, flooding = {}, set()
        for peer, size in received.items():
            last = self._connections.get(peer)
            if last is None or size < last.received:
                last = _Connection(received=0, excess=0.0, exceeded_since=None)
            paid = calls.get(str(peer[1]), 0) + limits.rate * elapsed
            excess = max(0.0, last.excess + size - last.received - paid)
            since = None
            if excess > limits.excess:
                since = now if last.exceeded_since is None else last.exceeded_since
                if now - since >= limits.patience:
                    flooding.add(peer)
            connections[peer] = _Connection(size, excess, since)
        self._connections = connections
        if flooding:
            closed = await asyncio.to_thread(_close, self._ports, flooding)
            self.closed += closed
            addresses = sorted({host.removeprefix("::ffff:") for host, _ in flooding})[:_LOGGED]
            _log.warning("flooding_connections_closed", connections=closed, addresses=addresses)
        return max(_INTERVAL, (time.monotonic() - started) / _MAX_SHARE)


def _read_received(ports: Collection[int]) -> dict[_Peer, int]:
    """Return the bytes received on each connection to these ports."""
    received = {}
    for peer, sock in _sockets(ports):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
        if len(info) == _BYTES_RECEIVED.size:
            received[peer] = _BYTES_RECEIVED.unpack(info)[0]
    return received


def _close(ports: Collection[int], peers: Collection[_Peer]) -> int:
    """Close the connections of these clients, and return their number."""
    closed = 0
    for peer, sock in _sockets(ports):
        if peer in peers:
            with suppress(OSError):
                _reset(sock)
                closed += 1
    return closed


def _reset(sock: socket.socket) -> None:
    """Reset a connection and drop its buffers, for all descriptors of its socket.

    A shutdown would not suffice: while gRPC does not read, the buffers stay full, and the client
    waits. A `connect` with AF_UNSPEC resets a TCP connection on Linux (connect(2)).

    Raises:
        OSError: the connection has ended.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), _NO_ADDRESS, len(_NO_ADDRESS)):
        raise OSError(ctypes.get_errno(), "the connection cannot be reset")


def _sockets(ports: Collection[int]) -> Iterator[tuple[_Peer, socket.socket]]:
    """Yield the client of each connection to these ports, and a copy of its socket."""
    for file in _FILES.iterdir() if _FILES.exists() else ():
        # gRPC may close a descriptor at any time, and its number is used again. A copy stays valid.
        with suppress(OSError):
            copy = os.dup(int(file.name))
            try:
                sock = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
                continue
            with sock:
                if sock.family in _FAMILIES and sock.getsockname()[1] in ports:
                    host, port = sock.getpeername()[:2]
                    yield (host, port), sock

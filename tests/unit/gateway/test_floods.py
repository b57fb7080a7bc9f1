"""Which connections the flood guard closes, with a clock that the tests set."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

import pytest

from headrace_gateway.floods import FloodGuard, FloodLimits

LIMITS = FloodLimits(rate=1000, excess=10_000, patience=10.0)


class Server:
    """A server with one connection, and the guard of its port."""

    def __init__(self, host: str) -> None:
        self.now = 1000.0
        self.calls: dict[str, int] = {}
        self.listener = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        port = self.listener.getsockname()[1]
        self.client = socket.create_connection((host, port))
        self.connection, _ = self.listener.accept()
        self.guard = FloodGuard(ports={port}, calls=self, limits=LIMITS, clock=lambda: self.now)

    def take(self) -> Mapping[str, int]:
        calls, self.calls = self.calls, {}
        return calls

    def add_call(self, size: int) -> None:
        """Count a call of the connection, in bytes."""
        self.calls[str(self.client.getsockname()[1])] = size

    def receive(self, size: int) -> None:
        """Send bytes from the client to the server."""
        self.client.sendall(bytes(size))
        self.connection.recv(size, socket.MSG_WAITALL)

    async def closes(self, *, after: float) -> bool:
        """Run the guard after some seconds, and return whether it has reset the connection."""
        self.now += after
        await self.guard.run_once()
        self.client.setblocking(False)
        try:
            self.client.recv(1)
        except ConnectionResetError:
            return True
        except BlockingIOError:
            return False
        else:
            raise AssertionError("the connection was closed without a reset")
        finally:
            self.client.setblocking(True)

    def close(self) -> None:
        """Close all sockets."""
        for sock in (self.listener, self.client, self.connection):
            sock.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    yield server
    server.close()


async def test_flood_is_closed_after_the_patience(server: Server) -> None:
    server.receive(30_000)
    assert not await server.closes(after=1)
    server.receive(30_000)
    assert not await server.closes(after=9)
    server.receive(30_000)
    assert await server.closes(after=2)
    assert server.guard.closed == 1


async def test_bytes_within_the_rate_are_allowed(server: Server) -> None:
    for _ in range(100):
        server.receive(2000)
        assert not await server.closes(after=2)


async def test_bytes_of_calls_are_allowed(server: Server) -> None:
    for _ in range(20):
        server.receive(50_000)
        server.add_call(49_000)
        assert not await server.closes(after=2)


async def test_large_request_may_arrive_before_its_call(server: Server) -> None:
    server.receive(100_000)
    assert not await server.closes(after=1)
    assert not await server.closes(after=8)
    server.add_call(100_000)
    assert not await server.closes(after=5)
    assert not await server.closes(after=60)


async def test_connection_to_another_port_is_not_measured(server: Server) -> None:
    guard = FloodGuard(ports={1}, calls=server, limits=FloodLimits(rate=0, excess=0, patience=0.0))
    server.receive(100_000)
    await guard.run_once()
    assert guard.closed == 0

"""A gRPC server for health alone, for services that serve nothing else."""

from __future__ import annotations

import asyncio

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME

from headrace_health.completion import keep_completion_queue
from headrace_health.health import Health
from headrace_health.reflection import enable_reflection
from headrace_health.strict import StrictRequests


class HealthServer:
    """Serves a Health on an address of its own.

    Args:
        address: `host:port`; port 0 takes any free one.
        health: what is served; it is started and shut down with the server.
        reflection: whether grpcurl and its like may ask what is served.
    """

    def __init__(self, *, address: str, health: Health, reflection: bool = False) -> None:
        self._address = address
        self._reflection = reflection
        self._health = health
        self._server: grpc.aio.Server | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port it listens on, once it is started."""
        return self._port

    async def start(self) -> None:
        """Starts the checks and listens.

        Raises:
            RuntimeError: the address cannot be had.
        """
        keep_completion_queue()
        # Two processes must not share a port by accident.
        server = grpc.aio.server(
            interceptors=(StrictRequests(),), options=(("grpc.so_reuseport", 0),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, server)
        if self._reflection:
            enable_reflection(server, [SERVICE_NAME])
        self._port = server.add_insecure_port(self._address)
        await self._health.start()
        await server.start()
        self._server = server

    async def enter_graceful_shutdown(self) -> None:
        """NOT_SERVING from now on, while the service finishes its work."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float = 1.0) -> None:
        """Ends its streams and stops listening; open calls have `grace` seconds."""
        await self._health.enter_graceful_shutdown()
        if self._server is not None:
            server, self._server = self._server, None
            async with asyncio.timeout(grace + 5):
                await server.stop(grace)

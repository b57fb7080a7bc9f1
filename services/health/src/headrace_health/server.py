"""A gRPC server that serves only health, for services without an API."""

from __future__ import annotations

import asyncio
from functools import cache

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME

from headrace_health.health import Health
from headrace_health.reflection import enable_reflection
from headrace_health.strict import StrictRequests
from headrace_health.tls import CertificateFiles, add_port


@cache
def keep_completion_queue() -> None:
    """Keep gRPC's queue of completed calls until the process ends.

    All servers and channels of a process share the queue. gRPC shuts it down with the last of them,
    and the event loop then blocks until the queue's thread has ended. That thread sometimes never
    ends (grpc/grpc issue 22365).
    """
    grpc.aio.init_grpc_aio()  # type: ignore[attr-defined] # the stubs lack it


class HealthServer:
    """Serves a `Health` on a separate address.

    Args:
        address: `host:port`; port 0 selects a free port.
        health: the checks; started and stopped with the server.
        reflection: whether to serve gRPC reflection, for grpcurl and similar tools.
        certificate: the certificate of the server; None for no TLS.
    """

    def __init__(
        self,
        *,
        address: str,
        health: Health,
        reflection: bool = False,
        certificate: CertificateFiles | None = None,
    ) -> None:
        self._address = address
        self._certificate = certificate
        self._reflection = reflection
        self.health = health
        self._server: grpc.aio.Server | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port, after the start."""
        return self._port

    async def start(self) -> None:
        """Start the checks and listen.

        Raises:
            RuntimeError: the address cannot be bound.
        """
        keep_completion_queue()
        # Two processes must not share a port by accident.
        server = grpc.aio.server(
            interceptors=(StrictRequests(),), options=(("grpc.so_reuseport", 0),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, server)
        if self._reflection:
            enable_reflection(server, [SERVICE_NAME])
        self._port = add_port(server, self._address, self._certificate)
        await self.health.start()
        await server.start()
        self._server = server

    async def enter_graceful_shutdown(self) -> None:
        """Report NOT_SERVING while the service finishes its work."""
        await self.health.enter_graceful_shutdown()

    async def stop(self, grace: float = 1.0) -> None:
        """End the streams and stop listening; open calls have `grace` seconds to end."""
        await self.health.enter_graceful_shutdown()
        if self._server is not None:
            server, self._server = self._server, None
            async with asyncio.timeout(grace + 5):
                await server.stop(grace)

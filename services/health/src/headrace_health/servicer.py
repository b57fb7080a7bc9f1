"""The grpc.health.v1 service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING: Final[int] = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final[int] = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Final[int] = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # it comes without types
    """Answers for a fixed set of services, all NOT_SERVING at first.

    The servicer that comes with grpcio-health-checking keeps its Watch streams open when the server
    stops, so that every stop lasts for its whole grace; and a reader that stalls holds up whoever
    sets a status. Here a shutdown ends the streams, and nobody waits for a reader.

    Args:
        services: full names of gRPC services; "" (the whole server) is always there.
    """

    def __init__(self, *, services: Iterable[str] = ()) -> None:
        self._statuses: dict[str, int] = dict.fromkeys(("", *services), NOT_SERVING)
        self._changed = asyncio.Event()
        self._shutting_down = False

    @property
    def services(self) -> tuple[str, ...]:
        """The names that it answers for."""
        return tuple(self._statuses)

    def serving(self, service: str = "") -> bool:
        """Whether a service is SERVING now."""
        return self._statuses.get(service) == SERVING

    def set_serving(self, service: str, serving: bool) -> None:
        """Sets a status and tells those who watch; after the shutdown began it does nothing."""
        if not self._shutting_down:
            self._set(service, serving)

    def shut_down(self) -> None:
        """Sets NOT_SERVING for ever and ends the streams after they have said so."""
        for service in self._statuses:
            self._set(service, False)
        self._shutting_down = True

    def _set(self, service: str, serving: bool) -> None:
        self._statuses[service] = SERVING if serving else NOT_SERVING
        # Those who wait hold the old event; who comes later waits for the new one.
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802 - the protocol's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ],
    ) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for a service that it does not know."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802 - the protocol's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ],
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now and whenever it changes, until the caller or this server ends it."""
        sent = None
        while True:
            changed = self._changed
            last = self._shutting_down
            status = self._statuses.get(request.service, SERVICE_UNKNOWN)
            if status != sent:
                yield health_pb2.HealthCheckResponse(status=status)
                sent = status
            if last:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server shuts down")
            await changed.wait()

"""The grpc.health.v1 service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import nullcontext
from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace_health.lookup import Lookup

SERVING: Final[int] = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final[int] = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Final[int] = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # the base class is untyped
    """Serves the statuses of fixed services, all NOT_SERVING at first, and of lookups.

    The servicer of grpcio-health-checking keeps its Watch streams open during a stop, so every stop
    takes the whole grace period. In that servicer, a stalled reader also blocks all status changes.
    This class ends its streams at a shutdown, and its status changes do not wait for readers.

    Args:
        services: full names of gRPC services; "" (the whole server) is always included.
        lookups: the statuses of other names.
    """

    def __init__(self, *, services: Iterable[str] = (), lookups: Sequence[Lookup] = ()) -> None:
        self._statuses: dict[str, int] = dict.fromkeys(("", *services), NOT_SERVING)
        self._lookups = tuple(lookups)
        for lookup in self._lookups:
            lookup.on_change(self._notify)
        self._changed = asyncio.Event()
        self._shutting_down = False

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the fixed services."""
        return tuple(self._statuses)

    def serving(self, service: str = "") -> bool:
        """Return whether a service is SERVING."""
        return self._statuses.get(service) == SERVING

    def set_serving(self, service: str, serving: bool) -> None:
        """Set a status and notify watches; has no effect after the shutdown has started."""
        if not self._shutting_down:
            self._set(service, serving)

    def shut_down(self) -> None:
        """Set NOT_SERVING permanently, and end the streams after they have sent it."""
        for service in self._statuses:
            self._set(service, False)
        self._shutting_down = True

    def _set(self, service: str, serving: bool) -> None:
        self._statuses[service] = SERVING if serving else NOT_SERVING
        self._notify()

    def _notify(self) -> None:
        # Streams that already wait use the old event; later waits use the new event.
        self._changed.set()
        self._changed = asyncio.Event()

    def _lookup(self, service: str) -> Lookup | None:
        if service in self._statuses:
            return None
        return next((lookup for lookup in self._lookups if lookup.knows(service)), None)

    async def _status(self, service: str, lookup: Lookup | None) -> int | None:
        """Return the status; None for an unknown service."""
        if lookup is None:
            return self._statuses.get(service)
        serving = not self._shutting_down and await lookup.serving(service)
        # The shutdown may have started during the lookup.
        return SERVING if serving and not self._shutting_down else NOT_SERVING

    async def Check(  # noqa: N802 - the protocol's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ],
    ) -> health_pb2.HealthCheckResponse:
        """Return the status; NOT_FOUND for an unknown service."""
        status = await self._status(request.service, self._lookup(request.service))
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(  # noqa: N802 - the protocol's name
        self,
        request: health_pb2.HealthListRequest,  # noqa: ARG002 - the protocol's
        context: grpc.aio.ServicerContext[  # noqa: ARG002
            health_pb2.HealthListRequest, health_pb2.HealthListResponse
        ],
    ) -> health_pb2.HealthListResponse:
        """Return the statuses of all fixed services, without the names of lookups."""
        return health_pb2.HealthListResponse(
            statuses={
                service: health_pb2.HealthCheckResponse(status=status)
                for service, status in self._statuses.items()
            }
        )

    async def Watch(  # noqa: N802 - the protocol's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ],
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield the status and each change, until the caller or this server ends the stream."""
        lookup = self._lookup(request.service)
        sent = None
        with nullcontext() if lookup is None else lookup.follow():
            while True:
                changed = self._changed
                last = self._shutting_down
                status = await self._status(request.service, lookup)
                if status is None:
                    status = SERVICE_UNKNOWN
                if status != sent:
                    yield health_pb2.HealthCheckResponse(status=status)
                    sent = status
                if last:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
                await changed.wait()

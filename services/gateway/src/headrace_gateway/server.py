"""The gateway: its parts, put together, started and stopped."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2

from headrace.v1 import (
    handler_service_pb2,
    job_service_pb2,
    subscription_service_pb2,
)
from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.loop import LoopRecords
from headrace_core.runtime.metrics import MetricsServer
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation, read_installation
from headrace_core.store.sql.probe import WriteProbe
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.api.handlers import HandlerCache, Handlers
from headrace_gateway.api.handoff import HandOff
from headrace_gateway.api.jobs import Jobs
from headrace_gateway.api.submit import Submit
from headrace_gateway.api.subscriptions import Subscriptions
from headrace_gateway.api.watch import JobStreams
from headrace_gateway.calls.drain import Drain
from headrace_gateway.calls.limits import (
    MAX_RESPONSE_BYTES,
    RECEIVED_METADATA_BYTES,
    RECEIVED_REQUESTS,
)
from headrace_gateway.calls.order import FOREIGN, build_chain
from headrace_gateway.calls.services import Service, add_services
from headrace_gateway.grpc.handlers import HandlerServicer, queue_health
from headrace_gateway.grpc.jobs import JobServicer
from headrace_gateway.grpc.subscriptions import SubscriptionServicer
from headrace_gateway.metrics import gateway_metrics
from headrace_gateway.streams import Gauges, Watch
from headrace_gateway.streams.timing import DEFAULT, Timing
from headrace_health import Check, Health, keep_completion_queue, reflections

_log = structlog.get_logger()

_JOBS: Final = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
_HANDLERS: Final = handler_service_pb2.DESCRIPTOR.services_by_name["HandlerService"]
_SUBSCRIPTIONS: Final = subscription_service_pb2.DESCRIPTOR.services_by_name["SubscriptionService"]
_HEALTH: Final = health_pb2.DESCRIPTOR.services_by_name["Health"]
_SERVICES: Final = (_JOBS, _HANDLERS, _SUBSCRIPTIONS)

# How long the start waits for PostgreSQL, in seconds, and how often it tries.
_START_PATIENCE: Final = 30.0
_START_INTERVAL: Final = 0.5

_MILLISECONDS: Final = 1000
_KEEPALIVE: Final = (
    # The server pings a quiet connection, so that a peer that is gone is noticed.
    ("grpc.keepalive_time_ms", 30 * _MILLISECONDS),
    ("grpc.keepalive_timeout_ms", 10 * _MILLISECONDS),
    # What really ends the wait for the answer; by default it is a minute, whatever stands above.
    ("grpc.http2.ping_timeout_ms", 10 * _MILLISECONDS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Clients may ping as often as every 5 s, also without a call.
    ("grpc.http2.min_ping_interval_without_data_ms", 5 * _MILLISECONDS),
)


class Gateway:
    """Serves the API.

    Args:
        settings: of the platform.
        timing: of the streams.
    """

    def __init__(self, settings: Settings, *, timing: Timing = DEFAULT) -> None:
        self._settings = settings
        self._timing = timing
        # What stop() has to do, the last first.
        self._ending = AsyncExitStack()
        self._port = 0
        self._metrics_port = 0
        # What its streams tell of themselves, once it is started.
        self.gauges = Gauges()

    @property
    def port(self) -> int:
        """The port it listens on, once it is started."""
        return self._port

    @property
    def metrics_port(self) -> int:
        """The port of its metrics, once it is started; 0 when it serves none."""
        return self._metrics_port

    async def start(self) -> None:
        """Connects and serves.

        Raises:
            Unavailable: PostgreSQL did not come within half a minute.
            RuntimeError: the address cannot be had.
            OSError: that of the metrics cannot be had.
        """
        async with AsyncExitStack() as ending:
            await self._start(ending)
            self._ending = ending.pop_all()

    async def stop(self) -> None:
        """NOT_SERVING; streams and new calls are told to go elsewhere; open calls have their grace.

        It takes no longer than `shutdown_grace` and the few seconds that its parts need.
        """
        await self._ending.aclose()

    async def _start(self, ending: AsyncExitStack) -> None:
        settings = self._settings
        database = Database(settings, application="gateway", timeout=settings.call_timeout)
        ending.callback(_log.info, "gateway_stopped")
        ending.push_async_callback(database.close)
        installation = await _installation(database)
        records = LoopRecords()
        bus = WakeBus(settings, database, Topic.EVENTS, Topic.SUBSCRIPTIONS, Topic.WORKERS)
        ending.push_async_callback(bus.stop)
        await bus.start()
        handlers = HandlerCache(database=database, wake=bus.subscribe(Topic.WORKERS))
        ending.push_async_callback(handlers.stop)
        await handlers.start()
        hand_off = HandOff(settings=settings, database=database, bus=bus)
        ending.push_async_callback(hand_off.close)
        submit = Submit(
            settings=settings, database=database, bus=bus, hand_off=hand_off, handlers=handlers
        )
        ending.push_async_callback(_close, submit, settings.database_timeout)
        watch = Watch(
            settings=settings,
            database=database,
            installation=installation,
            bus=bus,
            records=records,
            timing=self._timing,
        )
        self.gauges = watch.gauges
        health = Health(
            services=[service.full_name for service in _SERVICES],
            checks=[
                Check(name="postgresql", ping=WriteProbe(database, room=True).run),
                Check(name="wake-ups", ping=bus.ping),
                # Without Redis, wake-ups travel through PostgreSQL.
                Check(name="redis", ping=bus.ping_redis, required=False),
            ],
            lookups=[queue_health(database=database, wake=bus.subscribe(Topic.WORKERS))],
        )
        drain = Drain()
        chain = build_chain(settings, drain=drain, counts=watch.gauges)
        keep_completion_queue()
        server = grpc.aio.server(options=_options(settings))
        servicers = {
            _JOBS: JobServicer(
                submit=submit,
                jobs=Jobs(database=database, installation=installation, bus=bus),
                streams=JobStreams(watch=watch, submit=submit),
            ),
            _HANDLERS: HandlerServicer(Handlers(database=database, installation=installation)),
            _SUBSCRIPTIONS: SubscriptionServicer(
                Subscriptions(
                    database=database,
                    installation=installation,
                    bus=bus,
                    watch=watch,
                    max_subscriptions=settings.max_subscriptions,
                )
            ),
        }
        services = [
            Service(descriptor=descriptor, servicer=servicer, chain=chain)
            for descriptor, servicer in servicers.items()
        ]
        foreign = chain.only(*FOREIGN)
        services.append(
            Service(descriptor=_HEALTH, servicer=health.servicer, chain=foreign, foreign=True)
        )
        if settings.reflection:
            names = [service.full_name for service in services]
            services += [
                Service(
                    descriptor=reflection.descriptor,
                    servicer=reflection.servicer,
                    chain=foreign,
                    foreign=True,
                    name=reflection.name,
                )
                for reflection in reflections(names)
            ]
        add_services(server, services)
        self._port = server.add_insecure_port(settings.gateway_address)
        ending.push_async_callback(server.stop, settings.shutdown_grace)
        ending.push_async_callback(_leave, watch, drain)
        metrics = MetricsServer(
            address=settings.gateway_metrics_address, registry=gateway_metrics(watch, records)
        )
        await metrics.start()
        ending.push_async_callback(metrics.stop)
        self._metrics_port = metrics.port
        await watch.start()
        ending.push_async_callback(health.enter_graceful_shutdown)
        await health.start()
        await server.start()
        host = settings.gateway_address.rpartition(":")[0]
        ending.callback(_log.info, "gateway_stopping")
        _log.info("gateway_started", address=f"{host}:{self._port}")


async def _leave(watch: Watch, drain: Drain) -> None:
    """Ends the streams and turns new calls away, both with SHUTTING_DOWN."""
    await asyncio.gather(watch.stop(), drain.drain())


async def _close(submit: Submit, timeout: float) -> None:  # noqa: ASYNC109 - it is the last
    """Commits the submits that still wait."""
    try:
        async with asyncio.timeout(timeout):
            await submit.close()
    except TimeoutError:
        _log.warning("submits_abandoned")


async def _installation(database: Database) -> Installation:
    """Reads what names the database, and waits for it when it is not there yet."""
    deadline = asyncio.get_running_loop().time() + _START_PATIENCE
    waiting = False
    while True:
        try:
            async with database.statement() as conn:
                return await read_installation(conn)
        except Unavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            if not waiting:
                _log.warning("waiting_for_postgresql")
            waiting = True
        await asyncio.sleep(_START_INTERVAL)


def _options(settings: Settings) -> list[tuple[str, Any]]:
    return [
        # Two processes must not share a port by accident.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # Clients that all come back at once wait their turn. Beyond these bounds, a thousand unless
        # said, gRPC ends calls as CANCELLED, which nobody takes for a reason to try again.
        ("grpc.server.max_pending_requests", settings.max_concurrent_streams),
        ("grpc.server.max_pending_requests_hard_limit", settings.max_concurrent_streams),
        ("grpc.max_receive_message_length", settings.max_request_bytes * RECEIVED_REQUESTS),
        # The soft and the hard limit: between them gRPC refuses calls by chance.
        ("grpc.max_metadata_size", RECEIVED_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", RECEIVED_METADATA_BYTES),
        # No response comes near it: a larger one is a bug, and a client could not read it.
        ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
        *_KEEPALIVE,
    ]

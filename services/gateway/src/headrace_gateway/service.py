"""The gateway service: wires its parts, starts them and stops them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import grpc.aio
import structlog

from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.loop import Loop, LoopRecords, LoopRunner
from headrace_core.runtime.metrics import MetricsServer
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tracing import Tracing
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation, read_installation
from headrace_core.store.sql.probe import WriteProbe
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.access.api_keys import ApiKeys
from headrace_gateway.access.audit_writer import AuditWriter
from headrace_gateway.access.certificates import Certificates
from headrace_gateway.access.identities import Identities
from headrace_gateway.access.issuer_settings import Issuer, read_issuers
from headrace_gateway.access.login_throttle import LoginThrottle
from headrace_gateway.access.password_threads import PasswordThreads
from headrace_gateway.access.quotas import TenantQuotas
from headrace_gateway.access.signing import InstallationTokens
from headrace_gateway.api.access import Access
from headrace_gateway.api.audit import AuditLog
from headrace_gateway.api.certificates import CertificateBindings
from headrace_gateway.api.handlers import Handlers
from headrace_gateway.api.handoff import HandOff
from headrace_gateway.api.jobs import Jobs
from headrace_gateway.api.monitor import Monitor
from headrace_gateway.api.registrations import Registrations
from headrace_gateway.api.sessions import UserSessions
from headrace_gateway.api.submit import Submit
from headrace_gateway.api.subscriptions import Subscriptions
from headrace_gateway.api.tenants import Tenants
from headrace_gateway.api.users import Users
from headrace_gateway.api.watch import JobStreams
from headrace_gateway.calls.authorize import Sessions
from headrace_gateway.calls.drain import Drain
from headrace_gateway.calls.errors import Failures
from headrace_gateway.calls.meter import Meter
from headrace_gateway.calls.order import build_chain
from headrace_gateway.calls.traffic import Traffic
from headrace_gateway.floods import DEFAULT_FLOOD_LIMITS, FloodGuard, FloodLimits
from headrace_gateway.grpc.access import AccessServicer
from headrace_gateway.grpc.audit import AuditServicer
from headrace_gateway.grpc.handlers import HandlerServicer, queue_health
from headrace_gateway.grpc.jobs import JobServicer
from headrace_gateway.grpc.monitor import MonitorServicer
from headrace_gateway.grpc.server import SERVICES, build_server
from headrace_gateway.grpc.sessions import SessionServicer
from headrace_gateway.grpc.subscriptions import SubscriptionServicer
from headrace_gateway.grpc.tenants import TenantServicer
from headrace_gateway.grpc.users import UserServicer
from headrace_gateway.memory import memory_trim
from headrace_gateway.metrics import gateway_metrics
from headrace_gateway.streams import Gauges, Watch
from headrace_gateway.streams.timing import DEFAULT, Timing
from headrace_health import (
    CertificateFiles,
    Check,
    Health,
    ServiceMetrics,
    add_port,
    metrics_context,
)

if TYPE_CHECKING:
    from headrace_gateway.access.issuers import IssuerTokens

_log = structlog.get_logger()

# Longest wait for PostgreSQL at startup, and the interval between tries, in seconds.
_START_PATIENCE: Final = 30.0
_START_INTERVAL: Final = 0.5
# Longest wait for a loop to end, and for its last write, in seconds.
_LOOP_STOP_TIMEOUT: Final = 5.0


class Gateway:
    """Serves the API.

    Args:
        settings: the settings of the platform.
        timing: the durations of the streams.
        flood_limits: the limits beyond which a connection without calls is closed.
        tracing: receives the spans of the gateway; None if it writes none.

    Raises:
        StartRefused: the issuers cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        timing: Timing = DEFAULT,
        flood_limits: FloodLimits = DEFAULT_FLOOD_LIMITS,
        tracing: Tracing | None = None,
    ) -> None:
        self._settings = settings
        self._issuers = read_issuers(settings.issuers)
        self._timing = timing
        self._flood_limits = flood_limits
        self._tracing = tracing
        # The steps of `stop`; the last step runs first.
        self._on_stop = AsyncExitStack()
        self._port = self._mtls_port = self._metrics_port = 0
        # The gauges of the streams; `start` replaces this empty set.
        self.gauges = Gauges()

    @property
    def port(self) -> int:
        """The port of the API; 0 before the gateway starts."""
        return self._port

    @property
    def mtls_port(self) -> int:
        """The port of the API for clients with a certificate; 0 before the start, or without it."""
        return self._mtls_port

    @property
    def metrics_port(self) -> int:
        """The port of the metrics; 0 before the gateway starts, or without metrics."""
        return self._metrics_port

    async def start(self) -> None:
        """Connect and serve.

        Raises:
            Unavailable: PostgreSQL was not available within half a minute.
            RuntimeError: the address of the API is in use.
        StartRefused: the TLS certificate cannot be used.
            OSError: the address of the metrics is in use.
        """
        async with AsyncExitStack() as on_stop:
            await self._start(on_stop)
            self._on_stop = on_stop.pop_all()

    async def stop(self) -> None:
        """Report NOT_SERVING, end streams and reject new calls; open calls get `shutdown_grace`.

        A stop takes at most `shutdown_grace` plus a few seconds.
        """
        await self._on_stop.aclose()
        if self._tracing is not None:
            await self._tracing.flush()

    async def _start(self, on_stop: AsyncExitStack) -> None:
        settings = self._settings
        certificate = CertificateFiles.of(settings)
        database = Database(settings, application="gateway", timeout=settings.call_timeout)
        on_stop.callback(_log.info, "gateway_stopped")
        on_stop.push_async_callback(database.close)
        installation = await _wait_for_installation(database)
        records = LoopRecords()
        topics = (Topic.EVENTS, Topic.LOGS, Topic.SUBSCRIPTIONS, Topic.WORKERS, Topic.ACCESS)
        bus = WakeBus(settings, database, *topics)
        on_stop.push_async_callback(bus.stop)
        await bus.start()
        registrations = Registrations(database=database)
        _start_loop(on_stop, registrations, bus=bus, records=records)
        quotas = TenantQuotas()
        hand_off = HandOff(
            settings=settings, database=database, registrations=registrations, bus=bus
        )
        on_stop.push_async_callback(hand_off.close)
        submit = Submit(
            settings=settings,
            database=database,
            bus=bus,
            hand_off=hand_off,
            registrations=registrations,
            quotas=quotas,
        )
        on_stop.push_async_callback(_commit_submits, submit, settings.database_timeout)
        watch = Watch(
            settings=settings,
            database=database,
            installation=installation,
            bus=bus,
            records=records,
            timing=self._timing,
        )
        self.gauges = watch.gauges
        health = self._make_health(database, bus, registrations)
        drain = Drain()
        sessions = Sessions()
        tokens = InstallationTokens(database=database, installation=installation)
        identities = audit = None
        if settings.access_control:
            audit = _start_audit(on_stop, database=database, records=records)
            identities = Identities(
                database=database,
                verifiers=[ApiKeys(database=database, installation=installation), tokens],
                issuers=_start_issuers(self._issuers, records, on_stop),
                sessions=sessions,
                audit=audit,
                certificates=Certificates(database=database),
            )
            quotas.follow(identities.quotas)
            await identities.run_once()
            _start_loop(on_stop, identities, bus=bus, records=records)
        traffic, meter, threads, failures = Traffic(), Meter(), PasswordThreads(), Failures(audit)
        on_stop.callback(threads.close)
        server = build_server(
            settings,
            chain=build_chain(
                settings,
                drain=drain,
                counts=watch.gauges,
                authenticator=identities,
                sessions=sessions,
                limiter=quotas,
                traffic=traffic,
                meter=meter,
                failures=failures,
                reads=audit,
                tracing=self._tracing,
            ),
            jobs=JobServicer(
                submit=submit,
                jobs=Jobs(database=database, installation=installation, bus=bus, quotas=quotas),
                streams=JobStreams(database=database, watch=watch, tracing=self._tracing),
                failures=failures,
                tracing=self._tracing,
            ),
            handlers=HandlerServicer(Handlers(database=database, installation=installation)),
            subscriptions=SubscriptionServicer(
                Subscriptions(
                    database=database,
                    installation=installation,
                    bus=bus,
                    watch=watch,
                    max_subscriptions=settings.max_subscriptions,
                )
            ),
            audit=AuditServicer(AuditLog(database=database, installation=installation, bus=bus)),
            sessions=SessionServicer(
                UserSessions(
                    database=database,
                    installation=installation,
                    tokens=tokens,
                    threads=threads,
                    throttle=LoginThrottle(),
                    bus=bus,
                    lifetime=settings.session_lifetime,
                )
            ),
            users=UserServicer(
                Users(database=database, installation=installation, threads=threads, bus=bus)
            ),
            access=AccessServicer(
                Access(database=database, installation=installation, tokens=tokens, bus=bus),
                CertificateBindings(database=database, installation=installation, bus=bus),
            ),
            tenants=TenantServicer(
                Tenants(database=database, installation=installation, bus=bus, quotas=quotas)
            ),
            monitor=MonitorServicer(
                Monitor(database=database, installation=installation, watch=watch)
            ),
            health=health.servicer,
        )
        self._listen(server, certificate)
        on_stop.push_async_callback(server.stop, settings.shutdown_grace)
        on_stop.push_async_callback(_end_calls, watch, drain)
        floods = FloodGuard(
            ports={self._port, self._mtls_port} - {0}, calls=traffic, limits=self._flood_limits
        )
        for loop in filter(None, (floods, memory_trim())):
            _start_loop(on_stop, loop, bus=bus, records=records)
        metrics = MetricsServer(
            address=settings.gateway_metrics_address,
            registry=gateway_metrics(
                watch=watch,
                records=records,
                audit=audit,
                quotas=quotas,
                floods=floods,
                meter=meter,
                service=ServiceMetrics(health=health, certificate=certificate),
                tracing=self._tracing,
            ),
            tls=metrics_context(settings, certificate),
        )
        await metrics.start()
        on_stop.push_async_callback(metrics.stop)
        self._metrics_port = metrics.port
        await watch.start()
        on_stop.push_async_callback(health.enter_graceful_shutdown)
        await health.start()
        await server.start()
        host = settings.gateway_address.rpartition(":")[0]
        on_stop.callback(_log.info, "gateway_stopping")
        _log.info("gateway_started", address=f"{host}:{self._port}", tls=certificate is not None)

    def _make_health(
        self, database: Database, bus: WakeBus, registrations: Registrations
    ) -> Health:
        lookups = []
        if self._settings.health_names == "queues":
            wake = bus.subscribe(Topic.WORKERS)
            lookups.append(queue_health(registrations=registrations, wake=wake))
        return Health(
            services=SERVICES,
            checks=[
                Check(name="postgresql", ping=WriteProbe(database, checks_disk=True).run),
                Check(name="wake-ups", ping=bus.ping),
                # Without Redis, wake-ups travel through PostgreSQL.
                Check(name="redis", ping=bus.ping_redis, required=False),
            ],
            lookups=lookups,
        )

    def _listen(self, server: grpc.aio.Server, certificate: CertificateFiles | None) -> None:
        settings = self._settings
        self._port = add_port(
            server,
            settings.gateway_address,
            certificate,
            requires_client_certificate=settings.tls_client_certs == "required",
        )
        if settings.gateway_mtls_address:
            self._mtls_port = add_port(
                server,
                settings.gateway_mtls_address,
                certificate,
                requires_client_certificate=True,
            )


def _start_loop(on_stop: AsyncExitStack, loop: Loop, *, bus: WakeBus, records: LoopRecords) -> None:
    """Start a loop with the wake-ups of its topics, and stop it with the gateway."""
    runner = LoopRunner(loop, wake=bus.subscribe(*loop.topics), records=records)
    on_stop.push_async_callback(runner.stop, within=_LOOP_STOP_TIMEOUT)
    runner.start()


def _start_issuers(
    issuers: Sequence[Issuer], records: LoopRecords, on_stop: AsyncExitStack
) -> IssuerTokens | None:
    """Start to read the keys of issuers, and return the verifier of their tokens, if any."""
    if not issuers:
        return None
    # The HTTP client takes 140 ms to import.
    from headrace_gateway.access.issuers import IssuerTokens  # noqa: PLC0415
    from headrace_gateway.access.jwks import KeySet  # noqa: PLC0415

    tokens = IssuerTokens([KeySet(issuer) for issuer in issuers])
    on_stop.push_async_callback(tokens.close)
    runner = LoopRunner(tokens, records=records)
    on_stop.push_async_callback(runner.stop, within=_LOOP_STOP_TIMEOUT)
    runner.start()
    return tokens


async def _end_calls(watch: Watch, drain: Drain) -> None:
    """End the streams and reject new calls, both with SHUTTING_DOWN."""
    await asyncio.gather(watch.stop(), drain.drain())


async def _commit_submits(submit: Submit, timeout: float) -> None:  # noqa: ASYNC109 - the last step of `stop`
    """Commit the waiting submits, within `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            await submit.close()
    except TimeoutError:
        _log.warning("submits_abandoned")


def _start_audit(
    on_stop: AsyncExitStack, *, database: Database, records: LoopRecords
) -> AuditWriter:
    """Start the writer of the audit log."""
    writer = AuditWriter(database=database)
    on_stop.push_async_callback(_write_audit, writer)
    loop = LoopRunner(writer, wake=writer.wake, records=records)
    on_stop.push_async_callback(loop.stop, within=_LOOP_STOP_TIMEOUT)
    loop.start()
    return writer


async def _write_audit(writer: AuditWriter) -> None:
    """Write the last events of the audit log."""
    try:
        async with asyncio.timeout(_LOOP_STOP_TIMEOUT):
            await writer.run_once()
    except (TimeoutError, Unavailable):
        _log.warning("audit_events_lost")


async def _wait_for_installation(database: Database) -> Installation:
    """Wait for PostgreSQL and return the identity of its database."""
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

"""The web service: wires its parts, starts them and stops them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog
from starlette.middleware import Middleware

from headrace.tls import TLS
from headrace_core.runtime.metrics import MetricsServer
from headrace_core.runtime.settings import Settings, StartRefused
from headrace_health import CertificateFiles, Check, Health, ServiceMetrics, metrics_context
from headrace_web.app import create_app
from headrace_web.feeds import Feeds, feed_routes
from headrace_web.gateway import Gateway
from headrace_web.metrics import Requests, web_metrics
from headrace_web.pages import page_routes
from headrace_web.rest.routes import rest_routes
from headrace_web.rpc import rpc_routes
from headrace_web.server import HttpServer
from headrace_web.sessions import SessionCookies, Sessions, login_required, session_routes
from headrace_web.sessions.cookies import Cookies
from headrace_web.sessions.oidc import OidcClient, read_oidc

_log = structlog.get_logger()


class Web:
    """Serves the platform over HTTP.

    Args:
        settings: the settings of the platform.
        target: the address of the gateway; None for HEADRACE_TARGET.
        tls: the certificates of its connections; None for the variables.
    """

    def __init__(
        self, settings: Settings, *, target: str | None = None, tls: TLS | bool | None = None
    ) -> None:
        self._settings = settings
        self._target = target
        self._tls = tls
        # The steps of `stop`; the last step runs first.
        self._on_stop = AsyncExitStack()
        self._port = self._metrics_port = 0

    @property
    def port(self) -> int:
        """The port of the HTTP server; 0 before the start."""
        return self._port

    @property
    def metrics_port(self) -> int:
        """The port of the metrics; 0 before the start, or without metrics."""
        return self._metrics_port

    async def start(self) -> None:
        """Serve. A gateway that is not available yet does not prevent the start.

        Raises:
            StartRefused: the TLS certificate or the way to the gateway cannot be used.
            OSError: an address is in use.
        """
        async with AsyncExitStack() as on_stop:
            await self._start(on_stop)
            self._on_stop = on_stop.pop_all()

    async def stop(self) -> None:
        """End the streams, and stop listening; open requests get `shutdown_grace`."""
        await self._on_stop.aclose()

    async def _start(self, on_stop: AsyncExitStack) -> None:
        settings = self._settings
        certificate = CertificateFiles.of(settings)
        try:
            gateway = Gateway(self._target, self._tls)
        except (OSError, ValueError) as error:
            raise StartRefused(f"the gateway cannot be called: {error}") from error
        on_stop.callback(_log.info, "web_stopped")
        on_stop.push_async_callback(gateway.close)
        health = Health(checks=[Check(name="gateway", ping=gateway.check_health)])
        oidc = read_oidc(settings.web_oidc.get_secret_value())
        try:
            sessions = Sessions(gateway, oidc=None if oidc is None else OidcClient(oidc))
        except OSError as error:
            raise StartRefused(f"HEADRACE_WEB_OIDC: ca: {error}") from error
        on_stop.push_async_callback(sessions.stop)
        public_url = settings.web_public_url
        cookies = Cookies(secure=certificate is not None or public_url.startswith("https:"))
        requests = Requests()
        stopping = asyncio.Event()
        feeds = Feeds()
        on_stop.push_async_callback(feeds.stop)
        server = HttpServer(
            create_app(
                settings,
                health=health,
                requests=requests,
                routes=[
                    *rest_routes(gateway, stopping=stopping),
                    *rpc_routes(
                        gateway,
                        stopping=stopping,
                        max_request_bytes=settings.max_request_bytes,
                    ),
                    *feed_routes(gateway, feeds, stopping=stopping),
                    *session_routes(sessions, cookies, public_url=public_url),
                    *page_routes(login_required(sessions)),
                ],
                sessions=[Middleware(SessionCookies, sessions=sessions, cookies=cookies)],
            ),
            address=settings.web_address,
            grace=settings.shutdown_grace,
            max_connections=settings.max_connections,
            head_timeout=settings.handshake_timeout,
            # The other entries name client certificates, which this server does not request.
            trusted_proxies=[
                entry
                for entry in settings.trusted_proxies
                if not entry.startswith(("uri:", "dns:"))
            ],
            tls=None if certificate is None else certificate.ssl_context(),
        )
        metrics = MetricsServer(
            address=settings.web_metrics_address,
            registry=web_metrics(requests, ServiceMetrics(health=health, certificate=certificate)),
            tls=metrics_context(settings, certificate),
        )
        await metrics.start()
        on_stop.push_async_callback(metrics.stop)
        self._metrics_port = metrics.port
        await health.start()
        on_stop.push_async_callback(server.stop)
        await server.start()
        on_stop.push_async_callback(health.enter_graceful_shutdown)
        on_stop.callback(stopping.set)
        self._port = server.port
        on_stop.callback(_log.info, "web_stopping")
        host = settings.web_address.rpartition(":")[0]
        _log.info("web_started", address=f"{host}:{self._port}", tls=certificate is not None)

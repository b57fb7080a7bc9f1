"""The HTTP application: its routes, and the rules for every request."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from headrace_core.runtime.settings import Settings
from headrace_health import Health
from headrace_web.metrics import Requests
from headrace_web.middleware import REQUEST_ID, BodyLimit, EveryRequest
from headrace_web.problems import Problem

# How long a browser may cache the answer to a preflight request, in seconds.
_PREFLIGHT_MAX_AGE_S: Final = 600
# Response headers that pages of other origins may read.
_EXPOSED_HEADERS: Final = ("location", "retry-after", REQUEST_ID)


def create_app(
    settings: Settings,
    *,
    health: Health,
    requests: Requests,
    routes: Sequence[BaseRoute] = (),
    sessions: Sequence[Middleware] = (),
) -> ASGIApp:
    """Return the application.

    Args:
        settings: the settings of the service.
        health: the health of the gateway.
        requests: counts the requests.
        routes: the routes besides the health of the service.
        sessions: the middleware that reads the cookies of sessions.
    """

    def healthz(_: Request) -> Response:
        if health.serving:
            return PlainTextResponse("ok\n")
        status = HTTPStatus.SERVICE_UNAVAILABLE
        return PlainTextResponse("the gateway is unavailable\n", status_code=status)

    def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    middleware = [
        Middleware(
            EveryRequest,
            origins=settings.web_origins,
            public_url=settings.web_public_url,
            requests=requests,
        ),
        Middleware(BodyLimit, max_bytes=settings.max_request_bytes),
        *sessions,
    ]
    if settings.web_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.web_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=_EXPOSED_HEADERS,
            max_age=_PREFLIGHT_MAX_AGE_S,
        )
        middleware.insert(1, cors)
    return Starlette(
        routes=[Route("/healthz", healthz), Route("/livez", livez), *routes],
        middleware=middleware,
        exception_handlers={HTTPException: _on_http_error, Problem: _on_problem},
    )


async def _on_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, Problem):
        raise error
    return error.response(request.state.request_id)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Answer a request for a path or method that does not exist."""
    if not isinstance(error, HTTPException):
        raise error
    status = HTTPStatus(error.status_code)
    path = request.url.path
    detail = {
        HTTPStatus.NOT_FOUND: f"{path} does not exist",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{path} does not support {request.method}",
    }.get(status, error.detail)
    return Problem(status, detail, headers=dict(error.headers or {})).response(
        request.state.request_id
    )

"""The rules for every request: its id, its origin, its size, and the headers of its response."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace_web.metrics import Requests
from headrace_web.problems import Problem

REQUEST_ID: Final = "x-request-id"

_log = structlog.get_logger()

# A request id of a caller appears in logs, so it is short and printable.
_VALID_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}").fullmatch
# The time in which a body must arrive, in seconds. The server itself has no such limit.
_BODY_TIMEOUT_S: Final = 30.0
_SECURITY_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    # Pages have a policy of their own.
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


class EveryRequest:
    """Gives each request an id, checks its host and origin, and answers its errors.

    Args:
        app: the application.
        origins: the origins whose pages may call the server, in addition to its own.
        public_url: the URL under which browsers reach the server; empty for none.
        requests: counts the requests.
    """

    def __init__(
        self, app: ASGIApp, *, origins: Sequence[str], public_url: str, requests: Requests
    ) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._public = urlsplit(public_url)
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_ID, "")
        if not _VALID_ID(request_id):
            request_id = uuid.uuid4().hex
            MutableHeaders(scope=scope)[REQUEST_ID] = request_id
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added[REQUEST_ID] = request_id
                for name, value in _SECURITY_HEADERS.items():
                    added.setdefault(name, value)
            await send(message)

        with self._requests.count() as counted:
            try:
                self._check_host(headers)
                self._check_origin(scope, headers)
                await self._app(scope, receive, send_with_headers)
            except Problem as problem:
                if not status:
                    await problem.response(request_id)(scope, receive, send_with_headers)
            except Exception:  # noqa: BLE001 - the last place that can log it
                _log.exception("request_failed", request_id=request_id, path=scope["path"])
                failure = Problem(
                    HTTPStatus.INTERNAL_SERVER_ERROR,
                    f"the request failed; the logs contain the cause under {request_id}",
                    reason="INTERNAL",
                )
                if not status:
                    await failure.response(request_id)(scope, receive, send_with_headers)
            finally:
                counted.status = status

    def _check_host(self, headers: Headers) -> None:
        """Reject a host name that a foreign DNS server can resolve to this machine.

        Raises:
            Problem: the name is not one of this server.
        """
        host = _host(headers.get("host", ""))
        if host == self._public.hostname or "." not in host or host.endswith(".localhost"):
            return
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise Problem(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"this server does not know the host {host!r}; set HEADRACE_WEB_PUBLIC_URL to the "
                "URL under which browsers reach it",
            ) from None

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Reject a request of a page of another site.

        Raises:
            Problem: the origin is not allowed.
        """
        origin = headers.get("origin")
        if origin is None or origin in self._origins:
            return
        own = {f"{scope['scheme']}://{headers.get('host', '')}"}
        if self._public.hostname:
            own.add(f"{self._public.scheme}://{self._public.netloc}")
        if origin not in own:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"pages of {origin} may not call this server; HEADRACE_WEB_ORIGINS lists the "
                "origins that may",
            )


class BodyLimit:
    """Rejects request bodies that are too large or arrive too slowly.

    Args:
        app: the application.
        max_bytes: the largest body, in bytes.
        timeout: the time in which a body must arrive, in seconds.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout: float = _BODY_TIMEOUT_S) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdigit() or int(declared) > self._max_bytes:
            response = self._too_large(declared).response(scope["state"]["request_id"])
            await response(scope, receive, send)
            return
        read, complete = 0, False
        end = asyncio.get_running_loop().time() + self._timeout

        async def receive_limited() -> Message:
            nonlocal read, complete
            if complete:
                # The application waits for the end of the connection.
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            complete = not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > self._max_bytes:
                raise self._too_large(str(read))
            return message

        await self._app(scope, receive_limited, send)

    def _too_slow(self) -> Problem:
        return Problem(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the request body did not arrive within {self._timeout:g} s",
            headers={"connection": "close"},
        )

    def _too_large(self, size: str) -> Problem:
        return Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the request body has {size} bytes; the limit is {self._max_bytes} "
            "(HEADRACE_MAX_REQUEST_BYTES)",
            reason="INVALID_ARGUMENT",
            headers={"connection": "close"},
        )


def _host(value: str) -> str:
    """Return the host of a Host header, without its port."""
    host = value.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")

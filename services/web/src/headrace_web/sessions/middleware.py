"""Gives each request of a session the header Authorization, from its cookie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace_web.credentials import metadata_of_request
from headrace_web.problems import Problem
from headrace_web.sessions.cookies import Cookies
from headrace_web.sessions.sessions import SessionEnded, Sessions

# Scripts of the dashboard send this header. A page of another site cannot: the browser would ask
# this server first.
CSRF_HEADER: Final = "x-headrace-csrf"
_AUTHORIZATION: Final = "authorization"
_TOKEN_PARAMETER: Final = "access_token"  # noqa: S105 - a name, not a token
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
# These paths need no credential, or read the cookies themselves.
_EXEMPT: Final = ("/static/", "/healthz", "/livez", "/login", "/logout")


class SessionCookies:
    """Translates cookies into credentials. An expired access token is renewed first.

    A request with another credential is passed on unchanged.

    Args:
        app: the application.
        sessions: renews access tokens.
        cookies: the names of the cookies.
    """

    def __init__(self, app: ASGIApp, *, sessions: Sessions, cookies: Cookies) -> None:
        self._app = app
        self._sessions = sessions
        self._cookies = cookies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request.

        Raises:
            Problem: the request may come from another site, or the session cannot be renewed now.
        """
        request = Request(scope)
        access = request.cookies.get(self._cookies.access, "")
        refresh = request.cookies.get(self._cookies.refresh, "")
        if not (access or refresh) or _has_own_credential(request):
            await self._app(scope, receive, send)
            return
        if request.method not in _SAFE and CSRF_HEADER not in request.headers:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"a request with the cookie of a session needs the header {CSRF_HEADER}",
                reason="PERMISSION_DENIED",
            )
        added: list[str] = []
        renewed = not access
        if renewed:
            access, added = await self._renew(request, refresh)
        if access:
            MutableHeaders(scope=scope)[_AUTHORIZATION] = f"Bearer {access}"

        async def send_with_cookies(message: Message) -> None:
            if message["type"] == "http.response.start":
                rejected = message["status"] == HTTPStatus.UNAUTHORIZED and not renewed
                # The next request renews the access token.
                add_cookies(
                    message, self._cookies.clear(self._cookies.access) if rejected else added
                )
            await send(message)

        await self._app(scope, receive, send_with_cookies)

    async def _renew(self, request: Request, refresh: str) -> tuple[str, list[str]]:
        """Return the new access token, empty if the session has ended, and the cookies to set."""
        try:
            renewed = await self._sessions.renew(refresh, metadata=metadata_of_request(request))
            return renewed.access, self._cookies.store(renewed)
        except (SessionEnded, ValueError):
            return "", self._cookies.clear(self._cookies.access, self._cookies.refresh)


def add_cookies(message: Message, cookies: Iterable[str]) -> None:
    """Add headers Set-Cookie to the start of a response."""
    headers = MutableHeaders(scope=message)
    for cookie in cookies:
        headers.append("set-cookie", cookie)


def check_form_origin(request: Request) -> None:
    """Reject a form that a page of another site has sent.

    Raises:
        Problem: the browser does not confirm that the form is from this server.
    """
    # The check of every request has compared Origin with this server. A browser that sends neither
    # header is older than 2020.
    if request.headers.get("sec-fetch-site", "same-origin") == "same-origin" and (
        "origin" in request.headers or "sec-fetch-site" in request.headers
    ):
        return
    raise Problem(
        HTTPStatus.FORBIDDEN,
        "this form is accepted from the pages of this server alone",
        reason="PERMISSION_DENIED",
    )


def _has_own_credential(request: Request) -> bool:
    paths: Sequence[str] = _EXEMPT
    return (
        _AUTHORIZATION in request.headers
        or _TOKEN_PARAMETER in request.query_params
        or request.url.path.startswith(tuple(paths))
    )

"""The pages that start and end sessions: `/login`, `/login/oidc`, `/login/callback`, `/logout`."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from headrace_web.credentials import metadata_of_request
from headrace_web.pages.routes import render
from headrace_web.problems import Problem
from headrace_web.sessions.cookies import Cookies, Credentials
from headrace_web.sessions.middleware import check_form_origin
from headrace_web.sessions.oidc import OidcError
from headrace_web.sessions.sessions import Sessions

_LOGIN: Final = "/login"
_CALLBACK: Final = "/login/callback"
# Longest login at an issuer, in seconds.
_LOGIN_S: Final = 600.0
_FORM: Final = "application/x-www-form-urlencoded"
_MAX_FORM_BYTES: Final = 16 * 1024
_MAX_NEXT: Final = 2_000


def session_routes(sessions: Sessions, cookies: Cookies, *, public_url: str) -> list[Route]:
    """Return the routes.

    Args:
        sessions: starts and ends sessions.
        cookies: the cookies of sessions.
        public_url: the URL under which browsers reach the server; empty for that of each request.
    """
    endpoints = _Endpoints(sessions, cookies, public_url)
    return [
        Route(_LOGIN, endpoints.show, methods=["GET"]),
        Route(_LOGIN, endpoints.log_in, methods=["POST"]),
        Route("/login/oidc", endpoints.begin_oidc, methods=["GET"]),
        Route(_CALLBACK, endpoints.finish_oidc, methods=["GET"]),
        Route("/logout", endpoints.log_out, methods=["POST"]),
    ]


def login_required(sessions: Sessions) -> Callable[[Request], Awaitable[Response | None]]:
    """Return a function that sends browsers without a session to the login page.

    It returns None for a request with a credential, in an installation without access control, and
    while the gateway is unavailable: the page then shows the error.
    """

    async def log_in(request: Request) -> Response | None:
        if "authorization" in request.headers:
            return None
        try:
            if await sessions.is_open(metadata_of_request(request)):
                return None
        except Problem:
            return None
        query = f"?{request.url.query}" if request.url.query else ""
        return _redirect(login_url(request.url.path + query))

    return log_in


def login_url(next_path: str) -> str:
    """Return the URL of the login page that leads to a page of this server."""
    return f"{_LOGIN}?{urlencode({'next': next_path})}"


def local_path(text: str) -> str:
    """Return a path of this server, with its query; `/` if the text could lead elsewhere."""
    is_local = (
        text.startswith("/")
        # Browsers read `//host` and `/\\host` as another server.
        and not text.startswith(("//", "/\\"))
        and text.isascii()
        and text.isprintable()
        and "\\" not in text
        and len(text) <= _MAX_NEXT
        and not text.startswith((_LOGIN, "/logout"))
    )
    return text if is_local else "/"


class _Endpoints:
    def __init__(self, sessions: Sessions, cookies: Cookies, public_url: str) -> None:
        self._sessions = sessions
        self._cookies = cookies
        self._public_url = public_url

    async def show(self, request: Request) -> Response:
        """Return the login page; an installation without access control has none."""
        path = local_path(request.query_params.get("next", ""))
        try:
            if await self._sessions.is_open(metadata_of_request(request)):
                return _redirect(path)
        except Problem as problem:
            return self._page(path, problem=problem)
        return self._page(path)

    async def log_in(self, request: Request) -> Response:
        """Start a session with the fields of a form."""
        check_form_origin(request)
        form = await _read_form(request)
        path = local_path(form.get("next", ""))
        metadata = metadata_of_request(request)
        try:
            if key := form.get("api_key", "").strip():
                credentials = await self._sessions.log_in_with_key(key, metadata=metadata)
            else:
                credentials = await self._sessions.log_in(
                    username=form.get("username", ""),
                    password=form.get("password", ""),
                    tenant=form.get("tenant", ""),
                    metadata=metadata,
                )
        except Problem as problem:
            return self._page(path, problem=problem, form=form)
        return self._logged_in(path, credentials)

    async def begin_oidc(self, request: Request) -> Response:
        """Send the browser to the issuer."""
        path = local_path(request.query_params.get("next", ""))
        if self._sessions.oidc is None:
            return _redirect(login_url(path))
        try:
            login = await self._sessions.oidc.begin(self._redirect_uri(request))
        except OidcError as error:
            return self._page(path, problem=_problem_of(error))
        state = {
            "state": login.state,
            "nonce": login.nonce,
            "verifier": login.verifier,
            "next": path,
        }
        cookie = self._cookies.set(self._cookies.login, _pack(state), max_age=_LOGIN_S)
        return _redirect(login.url, [cookie])

    async def finish_oidc(self, request: Request) -> Response:
        """Start a session with the answer of the issuer."""
        started = _unpack(request.cookies.get(self._cookies.login, ""))
        path = local_path(started.get("next", ""))
        try:
            answer = request.query_params
            expected = started.get("state", "")
            if not expected or not hmac.compare_digest(
                expected.encode(), answer.get("state", "").encode()
            ):
                raise OidcError("this login has expired or was started elsewhere", rejected=True)
            if error := answer.get("error"):
                raise OidcError(f"the issuer rejected the login: {error[:100]!r}", rejected=True)
            credentials = await self._sessions.finish_oidc(
                code=answer.get("code", ""),
                nonce=started.get("nonce", ""),
                verifier=started.get("verifier", ""),
                redirect_uri=self._redirect_uri(request),
            )
            # The gateway may not accept the issuer, or give the user no role.
            await self._sessions.log_in_with_key(
                credentials.access, metadata=metadata_of_request(request)
            )
        except OidcError as error:
            return self._page(path, problem=_problem_of(error), clear=(self._cookies.login,))
        except Problem as problem:
            return self._page(path, problem=problem, clear=(self._cookies.login,))
        return self._logged_in(path, credentials, clear=(self._cookies.login,))

    async def log_out(self, request: Request) -> Response:
        """End the session."""
        check_form_origin(request)
        cleared = (self._cookies.access, self._cookies.refresh)
        if refresh := request.cookies.get(self._cookies.refresh):
            try:
                await self._sessions.log_out(refresh, metadata=metadata_of_request(request))
            except Problem as problem:
                if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    failed = Problem(
                        problem.status,
                        "this browser is logged out, but the gateway has not ended the session: "
                        + problem.detail,
                    )
                    return self._page("/", problem=failed, clear=cleared)
        return _redirect(_LOGIN, self._cookies.clear(*cleared))

    def _logged_in(
        self, path: str, credentials: Credentials, *, clear: Iterable[str] = ()
    ) -> Response:
        # A cookie of an earlier session must not outlive the new one.
        old = () if credentials.refresh else (self._cookies.refresh,)
        try:
            cookies = self._cookies.store(credentials)
        except ValueError as error:
            problem = Problem(HTTPStatus.BAD_REQUEST, str(error))
            return self._page(path, problem=problem, clear=clear)
        return _redirect(path, [*cookies, *self._cookies.clear(*clear, *old)])

    def _page(
        self,
        path: str,
        *,
        problem: Problem | None = None,
        form: dict[str, str] | None = None,
        clear: Iterable[str] = (),
    ) -> Response:
        given = form or {}
        response = render(
            "login.html",
            status=HTTPStatus.OK if problem is None else problem.status,
            next=path,
            error="" if problem is None else _sentence(problem),
            username=given.get("username", ""),
            tenant=given.get("tenant", ""),
            oidc_name="" if self._sessions.oidc is None else self._sessions.oidc.name,
        )
        if problem is not None and problem.retry_after is not None:
            response.headers["retry-after"] = str(max(1, round(problem.retry_after)))
        return _with_cookies(response, self._cookies.clear(*clear))

    def _redirect_uri(self, request: Request) -> str:
        base = self._public_url or f"{request.url.scheme}://{request.url.netloc}"
        return f"{base}{_CALLBACK}"


def _redirect(url: str, cookies: Iterable[str] = ()) -> Response:
    headers = {"cache-control": "no-store"}
    response = RedirectResponse(url, status_code=HTTPStatus.SEE_OTHER, headers=headers)
    return _with_cookies(response, cookies)


def _with_cookies(response: Response, cookies: Iterable[str]) -> Response:
    for cookie in cookies:
        response.headers.append("set-cookie", cookie)
    return response


def _sentence(problem: Problem) -> str:
    text = f"{problem.detail[:1].upper()}{problem.detail[1:].rstrip('.')}."
    if problem.retry_after is not None:
        text += f" Try again in {max(1, round(problem.retry_after))} s."
    return text


def _problem_of(error: OidcError) -> Problem:
    status = HTTPStatus.UNAUTHORIZED if error.rejected else HTTPStatus.SERVICE_UNAVAILABLE
    return Problem(status, str(error))


async def _read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form.

    Raises:
        Problem: the body is not a form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if kind != _FORM or len(body) > _MAX_FORM_BYTES:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be a form ({_FORM})")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=20)
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "the form is malformed") from error
    return {name: values[-1] for name, values in fields.items()}


def _pack(values: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


def _unpack(text: str) -> dict[str, str]:
    try:
        values: Any = json.loads(base64.urlsafe_b64decode(text.encode()))
    except ValueError:
        return {}
    if not isinstance(values, dict):
        return {}
    return {name: value for name, value in values.items() if isinstance(value, str)}

"""Starts, renews and ends sessions by calls of the gateway."""

from __future__ import annotations

import asyncio
import hashlib
import time
from http import HTTPStatus
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import AioRpcError

from headrace.v1 import access_service_pb2, session_service_pb2
from headrace_core.runtime.tasks import end_tasks
from headrace_web.gateway import Gateway, Metadata
from headrace_web.problems import Problem, problem_of, refusal_of
from headrace_web.rest.operations import method_of
from headrace_web.sessions.cookies import Credentials
from headrace_web.sessions.oidc import OidcClient, OidcError

# The deadline of a call, in seconds.
_TIMEOUT_S: Final = 10.0
# A browser can send requests with a replaced refresh token for this time, in seconds. The gateway
# accepts repeats for 30 s, but issuers often accept none.
_REPEAT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 1.0
# The kinds of refresh tokens: of a login by password, and of an OIDC issuer.
_PASSWORD: Final = "password"  # noqa: S105 - a name, not a password
_OIDC: Final = "oidc"


class SessionEnded(Exception):
    """The session has ended; the user has to log in again."""


class Sessions:
    """The sessions of browsers. Only the browsers store them, so restarts end none.

    Args:
        gateway: the gateway.
        oidc: the issuer at which users can log in; None for none.

    Attributes:
        oidc: the issuer at which users can log in; None for none.
    """

    def __init__(self, gateway: Gateway, *, oidc: OidcClient | None = None) -> None:
        self.oidc = oidc
        self._gateway = gateway
        # Running and recent renewals by the digest of the refresh token.
        self._renewals: dict[bytes, asyncio.Task[Credentials]] = {}

    async def is_open(self, metadata: Metadata) -> bool:
        """Return whether the installation has no access control.

        Args:
            metadata: the metadata of a request without a credential.

        Raises:
            Problem: the gateway did not answer.
        """
        try:
            await self._call("AccessService/WhoAmI", access_service_pb2.WhoAmIRequest(), metadata)
        except Problem as problem:
            if problem.status != HTTPStatus.UNAUTHORIZED:
                raise
            return False
        return True

    async def log_in(
        self, *, username: str, password: str, tenant: str, metadata: Metadata
    ) -> Credentials:
        """Start a session with a password.

        Raises:
            Problem: the gateway has rejected the login or did not answer.
        """
        request = session_service_pb2.LoginRequest(
            username=username, password=password, tenant=tenant
        )
        response = await self._call("SessionService/Login", request, metadata)
        return _credentials(response.tokens)

    async def log_in_with_key(self, key: str, *, metadata: Metadata) -> Credentials:
        """Return the credentials of a session with an API key; it ends with the browser.

        Raises:
            Problem: the gateway has rejected the key or did not answer.
        """
        await self._call(
            "AccessService/WhoAmI",
            access_service_pb2.WhoAmIRequest(),
            [*metadata, ("authorization", f"Bearer {key}")],
        )
        return Credentials(access=key)

    async def renew(self, refresh: str, *, metadata: Metadata) -> Credentials:
        """Return the next credentials of a session. Concurrent and repeated calls share them.

        Args:
            refresh: the refresh token with the name of its renewal; see `Credentials`.
            metadata: the metadata of the request.

        Raises:
            SessionEnded: the session has ended.
            Problem: the gateway or the issuer did not answer.
        """
        key = hashlib.sha256(refresh.encode()).digest()
        task = self._renewals.get(key)
        if task is None:
            task = asyncio.create_task(self._renew(refresh, metadata), name="session-renewal")
            self._renewals[key] = task
            task.add_done_callback(lambda done: self._keep(key, done))
        # The cancellation of one request must not end the renewal for the others.
        return await asyncio.shield(task)

    async def log_out(self, refresh: str, *, metadata: Metadata) -> None:
        """End a session at the gateway. The session of an issuer continues there.

        Raises:
            Problem: the gateway did not answer.
        """
        kind, _, token = refresh.partition(":")
        if kind == _PASSWORD:
            request = session_service_pb2.LogoutRequest(refresh_token=token)
            await self._call("SessionService/Logout", request, metadata)

    async def finish_oidc(
        self, *, code: str, nonce: str, verifier: str, redirect_uri: str
    ) -> Credentials:
        """Return the credentials of a login at the issuer.

        Raises:
            OidcError: the issuer has rejected the login or did not answer.
        """
        if self.oidc is None:
            raise OidcError("this server has no issuer (HEADRACE_WEB_OIDC)")
        tokens = await self.oidc.exchange(
            code=code, nonce=nonce, verifier=verifier, redirect_uri=redirect_uri
        )
        return _named(_OIDC, tokens)

    async def stop(self) -> None:
        """Cancel running renewals, and close the connections to the issuer."""
        await end_tasks(*self._renewals.values(), within=_STOP_TIMEOUT_S)
        self._renewals.clear()
        if self.oidc is not None:
            await self.oidc.close()

    async def _renew(self, refresh: str, metadata: Metadata) -> Credentials:
        kind, _, token = refresh.partition(":")
        if kind == _OIDC and self.oidc is not None:
            try:
                return _named(_OIDC, await self.oidc.renew(token))
            except OidcError as error:
                if error.rejected:
                    raise SessionEnded from error
                raise Problem(
                    HTTPStatus.SERVICE_UNAVAILABLE, str(error), reason="UNAVAILABLE"
                ) from error
        if kind != _PASSWORD:
            raise SessionEnded
        request = session_service_pb2.RefreshSessionRequest(refresh_token=token)
        try:
            response = await self._call("SessionService/RefreshSession", request, metadata)
        except Problem as problem:
            if problem.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.BAD_REQUEST):
                raise SessionEnded from problem
            raise
        return _credentials(response.tokens)

    def _keep(self, key: bytes, task: asyncio.Task[Credentials]) -> None:
        """Forget a failed renewal at once, and a successful one later."""
        if task.cancelled() or task.exception() is not None:
            self._renewals.pop(key, None)
        else:
            asyncio.get_running_loop().call_later(_REPEAT_S, self._renewals.pop, key, None)

    async def _call(self, rpc: str, request: Message, metadata: Metadata) -> Any:
        try:
            return await self._gateway.call(
                method_of(rpc), request, metadata=metadata, timeout=_TIMEOUT_S
            )
        except AioRpcError as error:
            raise problem_of(refusal_of(error)) from None


def _credentials(tokens: session_service_pb2.SessionTokens) -> Credentials:
    return _named(
        _PASSWORD,
        Credentials(
            access=tokens.access_token,
            access_s=_seconds_until(tokens.access_expire_time),
            refresh=tokens.refresh_token,
            refresh_s=_seconds_until(tokens.session_expire_time),
        ),
    )


def _named(kind: str, tokens: Credentials) -> Credentials:
    return Credentials(
        access=tokens.access,
        access_s=tokens.access_s,
        refresh=f"{kind}:{tokens.refresh}" if tokens.refresh else "",
        refresh_s=tokens.refresh_s,
    )


def _seconds_until(moment: Timestamp) -> float:
    # The clocks may differ. A browser that keeps a token for too long gets one more rejection.
    return max(1.0, moment.seconds - time.time())

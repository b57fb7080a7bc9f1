"""The client's calls for sessions and passwords."""

from __future__ import annotations

from headrace._calls import Calls
from headrace._convert import from_principal, from_tokens
from headrace._headers import Secret
from headrace.access import Login, SessionTokens
from headrace.v1 import session_service_pb2


class SessionCalls:
    """The client's calls for users who log in with a password.

    `login`, `refresh_session` and `logout` need no credential. An access token is valid for 15
    minutes; `refresh_session` returns the next one:

        async with Client(target) as sessions:
            tokens = (await sessions.login("ada", password)).tokens

            async def next_token():
                nonlocal tokens
                tokens = await sessions.refresh_session(tokens.refresh_token)
                return tokens.access_token

            async with Client(target, token_provider=next_token) as client:
                ...
    """

    _calls: Calls

    async def login(self, username: str, password: str, *, tenant: str | None = None) -> Login:
        """Start a session.

        Args:
            username: the name of the user.
            password: the password.
            tenant: the tenant of the user. None: `default`.

        Raises:
            InsecureConnection: the password would be sent to another machine in plaintext.
            Unauthenticated: the user name or the password is wrong, or the user is disabled.
            LoginThrottled: too many logins have failed; retry after `refusal.retry_after`.
        """
        # An error report may contain local variables.
        password = Secret(password)
        response = await self._calls.unary_with_secret(
            "the password",
            lambda gateway: gateway.sessions.Login,
            session_service_pb2.LoginRequest(
                username=username, password=password, tenant=tenant or ""
            ),
            authenticated=False,
        )
        principal = response.principal
        return Login(
            tokens=from_tokens(response.tokens),
            principal=from_principal(principal, acting_tenant=principal.tenant),
        )

    async def refresh_session(self, refresh_token: str) -> SessionTokens:
        """Return the next tokens of a session, which replace the previous ones.

        The call can be repeated within 30 seconds. After that, a second use of a refresh token ends
        the session, because the token may have been stolen.

        Raises:
            InsecureConnection: the token would be sent to another machine in plaintext.
            Unauthenticated: the session has ended; log in again.
        """
        refresh_token = Secret(refresh_token)
        response = await self._calls.unary_with_secret(
            "the refresh token",
            lambda gateway: gateway.sessions.RefreshSession,
            session_service_pb2.RefreshSessionRequest(refresh_token=refresh_token),
            authenticated=False,
        )
        return from_tokens(response.tokens)

    async def logout(self, refresh_token: str) -> None:
        """End a session: within five seconds, all gateways reject its access tokens.

        The call succeeds if the session has already ended.

        Raises:
            InsecureConnection: the token would be sent to another machine in plaintext.
        """
        refresh_token = Secret(refresh_token)
        await self._calls.unary_with_secret(
            "the refresh token",
            lambda gateway: gateway.sessions.Logout,
            session_service_pb2.LogoutRequest(refresh_token=refresh_token),
            authenticated=False,
        )

    async def change_password(self, current_password: str, new_password: str) -> None:
        """Change the password of the user of this client's token, and end the other sessions.

        Raises:
            InsecureConnection: the passwords would be sent to another machine in plaintext.
            InvalidRequest: the new password breaks a rule.
            Unauthenticated: the current password is wrong.
        """
        current_password, new_password = Secret(current_password), Secret(new_password)
        await self._calls.unary_with_secret(
            "the password",
            lambda gateway: gateway.sessions.ChangePassword,
            session_service_pb2.ChangePasswordRequest(
                current_password=current_password, new_password=new_password
            ),
        )

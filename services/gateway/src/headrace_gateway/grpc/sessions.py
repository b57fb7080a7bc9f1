"""SessionService: each method converts its request and the result of its use case."""

# ruff: noqa: N802 - the methods have the names of the contract

from __future__ import annotations

from datetime import UTC, datetime

from headrace.v1 import session_service_pb2 as messages
from headrace_gateway.api.sessions import SessionTokens, UserSessions
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.access import principal_message
from headrace_gateway.grpc.encode import timestamp


class SessionServicer:
    """Logs users in and out.

    Args:
        sessions: the use cases.
    """

    def __init__(self, sessions: UserSessions) -> None:
        self._sessions = sessions

    async def Login(self, request: messages.LoginRequest, call: Call) -> messages.LoginResponse:
        """Start a session."""
        tokens = await self._sessions.log_in(
            call, username=request.username, password=request.password, tenant=request.tenant
        )
        return messages.LoginResponse(
            tokens=_tokens_message(tokens), principal=principal_message(tokens.principal)
        )

    async def RefreshSession(
        self, request: messages.RefreshSessionRequest, call: Call
    ) -> messages.RefreshSessionResponse:
        """Return the next tokens of a session."""
        tokens = await self._sessions.refresh(call, request.refresh_token)
        return messages.RefreshSessionResponse(tokens=_tokens_message(tokens))

    async def Logout(self, request: messages.LogoutRequest, call: Call) -> messages.LogoutResponse:
        """End a session."""
        await self._sessions.log_out(call, request.refresh_token)
        return messages.LogoutResponse()

    async def ChangePassword(
        self, request: messages.ChangePasswordRequest, call: Call
    ) -> messages.ChangePasswordResponse:
        """Change the password of the caller."""
        await self._sessions.change_password(
            call, current=request.current_password, new=request.new_password
        )
        return messages.ChangePasswordResponse()


def _tokens_message(tokens: SessionTokens) -> messages.SessionTokens:
    assert tokens.principal.expire_time is not None
    return messages.SessionTokens(
        access_token=tokens.access_token,
        access_expire_time=timestamp(datetime.fromtimestamp(tokens.principal.expire_time, UTC)),
        refresh_token=tokens.refresh_token,
        session_expire_time=timestamp(tokens.session.expire_time),
    )

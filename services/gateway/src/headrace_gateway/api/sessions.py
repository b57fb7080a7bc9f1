"""The use cases of users who log in: sessions and password changes."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import uuid4

import structlog

from headrace_core.domain.access import Principal, PrincipalKind, TenantState
from headrace_core.domain.errors import (
    InvalidRequest,
    LoginRejected,
    SessionEnded,
    TenantSuspended,
    Unauthenticated,
    Violation,
)
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.refresh_token import (
    RefreshToken,
    new_refresh_token,
    read_refresh_token,
)
from headrace_core.domain.user import (
    MAX_SENT_PASSWORD,
    LoginCandidate,
    Session,
    is_user_name,
    normalize_password,
)
from headrace_core.store.access.changes import read_version
from headrace_core.store.access.passwords import is_outdated
from headrace_core.store.access.sessions import (
    ReusedToken,
    end_session,
    refresh_session,
    start_session,
)
from headrace_core.store.access.users import change_password, find_login, rehash_password
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.access.audit import record_audit
from headrace_gateway.access.login_throttle import Account, LoginThrottle, throttled_address
from headrace_gateway.access.password_threads import PasswordThreads
from headrace_gateway.access.signing import InstallationTokens
from headrace_gateway.api.validation import Violations, check_new_password
from headrace_gateway.calls.call import Call

_log = structlog.get_logger()

# The lifetime of an access token in seconds.
ACCESS_LIFETIME: Final = 15 * 60
# The longest name of a tenant that the throttle remembers, in characters.
_MAX_TENANT: Final = 200


class SessionTokens(NamedTuple):
    """The tokens of a session.

    Attributes:
        access_token: identifies the user in calls.
        principal: the user; its `expire_time` is that of the access token.
        refresh_token: a client exchanges it for the next tokens.
        session: the session.
    """

    access_token: str
    principal: Principal
    refresh_token: str
    session: Session

    def __repr__(self) -> str:
        return f"SessionTokens(session={self.session.id})"


class UserSessions:
    """The use cases of sessions.

    Args:
        database: the store of users and sessions.
        installation: signs refresh tokens.
        tokens: issues access tokens.
        threads: verifies passwords.
        throttle: limits failed logins.
        bus: wakes the gateways after the end of a session.
        lifetime: the seconds from a login to the end of its session.
    """

    def __init__(
        self,
        *,
        database: Database,
        installation: Installation,
        tokens: InstallationTokens,
        threads: PasswordThreads,
        throttle: LoginThrottle,
        bus: WakeBus,
        lifetime: float,
    ) -> None:
        self._database = database
        self._installation = installation
        self._tokens = tokens
        self._threads = threads
        self._throttle = throttle
        self._bus = bus
        self._lifetime = timedelta(seconds=lifetime)

    async def log_in(
        self, call: Call, *, username: str, password: str, tenant: str = ""
    ) -> SessionTokens:
        """Start a session.

        Args:
            call: the call.
            username: the name of the user.
            password: the password.
            tenant: the tenant of the user; empty for the default tenant.

        Raises:
            InvalidRequest: an argument is missing.
            LoginRejected: the tenant, the user or the password is wrong, or the user is disabled.
            LoginThrottled: too many logins have failed.
            TenantSuspended: the password is right, but the tenant is not active.
        """
        found = Violations()
        _require("username", username, found)
        _require("password", password, found)
        found.check()
        account = _account(tenant or DEFAULT_TENANT, username)
        address = throttled_address(call.address)
        self._throttle.check_address(account, address)
        candidate = await self._verify(account, address, password)
        if candidate.tenant_state is not TenantState.ACTIVE:
            raise TenantSuspended(account.tenant)
        password_hash = candidate.password_hash
        rehashed = await self._threads.hash(password) if is_outdated(password_hash) else None
        token = new_refresh_token(uuid4())
        async with self._database.transaction() as conn:
            version = await read_version(conn)
            session = await start_session(
                conn,
                candidate.user,
                session_id=token.session_id,
                token_hash=token.hash,
                password_hash=password_hash,
                address=address,
                lifetime=self._lifetime,
            )
            if session is not None and rehashed is not None:
                await rehash_password(conn, session.user, old_hash=password_hash, new_hash=rehashed)
            if session is not None:
                await _record(conn, call, session)
        if session is None:
            raise LoginRejected
        _log.info(
            "user_logged_in", tenant=account.tenant, user=account.username, session=str(session.id)
        )
        return await self._issue(session, token, version)

    async def refresh(self, call: Call, refresh_token: str) -> SessionTokens:
        """Return the next tokens of a session.

        Raises:
            SessionEnded: the token is not valid, or the session has ended. A token that was
                replaced earlier ends the session.
        """
        token = read_refresh_token(self._installation.secret, refresh_token)
        if token is None:
            raise SessionEnded
        following = token.next(self._installation.secret)
        async with self._database.transaction() as conn:
            version = await read_version(conn)
            session = await refresh_session(
                conn,
                session_id=token.session_id,
                token_hash=token.hash,
                next_hash=following.hash,
            )
            if isinstance(session, ReusedToken):
                await _record(conn, call, session.session, reason="the refresh token was replaced")
        if isinstance(session, ReusedToken):
            self._bus.publish(Topic.ACCESS)
            _log.warning(
                "refresh_token_reused", session=str(token.session_id), address=call.address
            )
            raise SessionEnded
        if session is None:
            raise SessionEnded
        user = session.user
        self._throttle.remember(Account(user.tenant, user.name), throttled_address(call.address))
        return await self._issue(session, following, version)

    async def log_out(self, call: Call, refresh_token: str) -> None:
        """End a session, unless it has ended.

        Raises:
            SessionEnded: the token is not a refresh token of this installation.
        """
        token = read_refresh_token(self._installation.secret, refresh_token)
        if token is None:
            raise SessionEnded
        async with self._database.transaction() as conn:
            ended = await end_session(conn, session_id=token.session_id)
            if ended is not None:
                await _record(conn, call, ended)
        if ended is not None:
            self._bus.publish(Topic.ACCESS)
            _log.info("user_logged_out", session=str(token.session_id))

    async def change_password(self, call: Call, *, current: str, new: str) -> None:
        """Change the password of the caller, and end the caller's other sessions.

        Raises:
            InvalidRequest: the current password is wrong, or the new one is not acceptable.
            Unauthenticated: the caller is not a user who has logged in.
            LoginThrottled: too many attempts had a wrong current password.
        """
        principal = call.principal
        if principal.kind is not PrincipalKind.USER:
            raise Unauthenticated("only a user who has logged in has a password")
        found = Violations()
        _require("current_password", current, found)
        check_new_password("new_password", new, found, user=principal.name)
        if new and normalize_password(new) == normalize_password(current):
            found.note("new_password", "must differ from the current password")
        found.check()
        account = Account(principal.tenant, principal.name)
        address = throttled_address(call.address)
        self._throttle.remember(account, address)
        try:
            candidate = await self._verify(account, address, current)
        except LoginRejected:
            # UNAUTHENTICATED would make clients repeat the call with a new access token.
            raise _wrong_password() from None
        new_hash = await self._threads.hash(new)
        async with self._database.transaction() as conn:
            changed = await change_password(
                conn,
                candidate.user,
                old_hash=candidate.password_hash,
                new_hash=new_hash,
                kept_session=principal.credential,
            )
            if changed:
                await record_audit(conn, call, target=f"user {principal.name}")
        if not changed:
            raise _wrong_password()
        self._bus.publish(Topic.ACCESS)
        _log.info("password_changed", tenant=account.tenant, user=account.username)

    async def _verify(self, account: Account, address: str, password: str) -> LoginCandidate:
        """Return the user with this name and password.

        Raises:
            LoginRejected: no such user exists, or the user is disabled.
            LoginThrottled: too many logins have failed.
        """
        async with self._database.statement() as conn:
            candidate = await find_login(
                conn, tenant=account.tenant, name=account.username, address=address
            )
        if candidate is not None and candidate.knows_address:
            self._throttle.remember(account, address)
        self._throttle.check_account(account, address)
        known = self._throttle.knows(account, address)
        # An unknown user takes as long as a wrong password.
        correct = await self._threads.verify(
            None if candidate is None else candidate.password_hash, password, known=known
        )
        if candidate is None or not correct or candidate.user.disabled:
            _log.info("login_rejected", tenant=account.tenant, address=address)
            raise LoginRejected
        self._throttle.succeed(account, address)
        return candidate

    async def _issue(self, session: Session, token: RefreshToken, version: int) -> SessionTokens:
        end = min(time.time() + ACCESS_LIFETIME, session.expire_time.timestamp())
        # The claims of a token contain whole seconds.
        principal = replace(_principal(session), expire_time=float(int(end)))
        return SessionTokens(
            access_token=await self._tokens.issue(principal, version=version),
            principal=principal,
            refresh_token=token.text(self._installation.secret),
            session=session,
        )


async def _record(conn: Connection, call: Call, session: Session, *, reason: str = "") -> None:
    """Record a call in the audit log of the user's tenant; see `record_audit`."""
    user = session.user
    await record_audit(
        conn, call, target=f"user {user.name}", principal=_principal(session), reason=reason
    )


def _principal(session: Session) -> Principal:
    user = session.user
    return Principal.of(
        name=user.name,
        tenant=user.tenant,
        kind=PrincipalKind.USER,
        role=user.role,
        scope=user.scope,
        credential=str(session.id),
    )


def _account(tenant: str, username: str) -> Account:
    """Return the account of a login. All invalid names share one unknown account."""
    if is_user_name(username) and len(tenant) <= _MAX_TENANT and "\0" not in tenant:
        return Account(tenant, username)
    return Account("", "")


def _wrong_password() -> InvalidRequest:
    return InvalidRequest([Violation("current_password", "is not the password of the user")])


def _require(field: str, text: str, found: Violations) -> None:
    if not text:
        found.note(field, "is required")
    elif len(text) > MAX_SENT_PASSWORD:
        found.note(field, f"has {len(text)} characters; at most {MAX_SENT_PASSWORD} are allowed")

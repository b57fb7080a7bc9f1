"""Principals, roles, API keys, users and sessions."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """A role; each role has the rights of the previous one."""

    # Reads jobs.
    VIEWER = "viewer"
    # Submits, cancels and retries jobs, manages subscriptions, and mints watch tokens.
    OPERATOR = "operator"
    # Manages keys, users and quotas of the tenant, and reads its audit log.
    ADMIN = "admin"
    # Manages tenants, and acts in each of them.
    PLATFORM = "platform"
    # A value that this version of the client does not know.
    UNKNOWN = "unknown"


class PrincipalKind(StrEnum):
    """The kind of credential that identified a principal."""

    # No credential; access control is off.
    ANONYMOUS = "anonymous"
    API_KEY = "api_key"
    # A token of an external issuer.
    TOKEN = "token"  # noqa: S105 - a kind, not a secret
    # A user who logged in.
    USER = "user"
    CERTIFICATE = "certificate"
    WATCH_TOKEN = "watch_token"  # noqa: S105 - a kind, not a secret
    # A value that this version of the client does not know.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller.

    Args:
        name: the name, unique within its tenant.
        tenant: the tenant of the principal.
        acting_tenant: the tenant of the call. It differs from `tenant` only if a principal with the
            role PLATFORM acts in another tenant.
        kind: the kind of its credential.
        role: the role.
        scope: the entries that narrow the role to rights, queues, types, labels, batches or jobs.
        rights: the rights of the role within the scope.
        credential: the id of the credential, which is not secret.
        expire_time: the time at which the credential expires; None for never.
    """

    name: str
    tenant: str
    acting_tenant: str
    kind: PrincipalKind
    role: Role
    scope: tuple[str, ...] = ()
    rights: tuple[str, ...] = ()
    credential: str = ""
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key without its secret.

    Args:
        id: the id, which is part of the key.
        principal: the principal that the key identifies; several keys can identify the same one.
        role: the role.
        scope: the entries of the scope; see `Principal`.
        created_by: the principal that created the key.
        create_time: the creation time.
        expire_time: the time at which the key expires; None for never.
        last_use_time: the minute of the last use; None before the first use.
        revoke_time: the time of the revocation; None if the key is not revoked.
    """

    id: str
    principal: str
    role: Role
    scope: tuple[str, ...]
    created_by: str
    create_time: datetime | None
    expire_time: datetime | None = None
    last_use_time: datetime | None = None
    revoke_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateBinding:
    """A binding of client certificates to a principal.

    Args:
        san: the subject alternative name of the certificates, `uri:URI` or `dns:HOST`.
        principal: the principal that the certificates identify.
        role: the role.
        scope: the entries of the scope; see `Principal`.
        created_by: the principal that created the binding.
        create_time: the creation time.
    """

    san: str
    principal: str
    role: Role
    scope: tuple[str, ...]
    created_by: str
    create_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person who logs in with a password.

    Args:
        name: the name, unique within the tenant.
        role: the role.
        scope: the entries of the scope; see `Principal`.
        disabled: whether logins are rejected.
        created_by: the principal that created the user.
        create_time: the creation time.
        last_login_time: the time of the last login; None before the first login.
        password_time: the time at which the password was set.
    """

    name: str
    role: Role
    scope: tuple[str, ...]
    disabled: bool
    created_by: str
    create_time: datetime | None
    last_login_time: datetime | None = None
    password_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """A new user; `password` is the random password, or empty if the caller chose one."""

    user: User
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTokens:
    """The tokens of a session.

    Args:
        access_token: identifies the user, as in `Client(token=…)`.
        access_expire_time: the time at which the access token expires.
        refresh_token: the argument of `Client.refresh_session`, which returns the next tokens.
        session_expire_time: the time at which the session ends.
    """

    access_token: str = field(repr=False)
    access_expire_time: datetime | None
    refresh_token: str = field(repr=False)
    session_expire_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A new session: its tokens, and the user as a principal."""

    tokens: SessionTokens
    principal: Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A new API key.

    Args:
        api_key: the key without its secret.
        secret: the complete key, for `Client(api_key=…)`. It cannot be read again.
    """

    api_key: ApiKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWatchToken:
    """A new watch token.

    Args:
        principal: the principal that the token identifies, with its scope and its expiry.
        token: the token, for `Client(token=…)` or `authorization: Bearer …`. It cannot be read
            again.
    """

    principal: Principal
    token: str = field(repr=False)

"""The link `authenticate`: determines the principal and the tenant of a call."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from google.protobuf.message import Message

from headrace_core.domain.access import Principal, PrincipalKind, Right, Role, Scope
from headrace_core.domain.errors import PermissionDenied, Unauthenticated
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_gateway.calls.call import Call
from headrace_gateway.calls.exchange import Exchange, Method, Proceed, short_name
from headrace_gateway.calls.peer_certificates import certificate_properties
from headrace_gateway.calls.permissions import Need, Open

# The header with the credential, and the header in which a platform principal names the tenant of a
# call.
AUTHORIZATION: Final = "authorization"
TENANT: Final = "x-headrace-tenant"

# The scheme of RFC 6750. Schemes are not case-sensitive (RFC 9110, section 11.1).
_SCHEME: Final = "bearer "
# The longest credential, in characters. Tokens of identity providers can have several kilobytes.
_MAX_CREDENTIAL: Final = 8192

# Everything is allowed while access control is off.
ANONYMOUS: Final = Principal.of(
    name="anonymous",
    tenant=DEFAULT_TENANT,
    kind=PrincipalKind.ANONYMOUS,
    role=Role.PLATFORM,
    scope=Scope(rights=frozenset({Right.PAYLOAD_READ})),
)
# The caller of the RPCs that are open to anyone.
_UNAUTHENTICATED: Final = Principal(
    name="anonymous",
    tenant=DEFAULT_TENANT,
    kind=PrincipalKind.ANONYMOUS,
    role=Role.VIEWER,
    rights=frozenset(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The credentials of a call, before their verification.

    Attributes:
        bearer: the credential of the header `authorization`; empty without one.
        address: the network address of the caller.
        certificate: the properties of a verified client certificate, such as its subject
            alternative names; empty without one.
    """

    bearer: str = ""
    address: str
    certificate: Mapping[str, tuple[bytes, ...]]


class Authenticator(Protocol):
    """Identifies principals, and knows which tenants are active."""

    def recognize(self, bearer: str) -> Principal | None:
        """Return the principal of a cached credential.

        Returns:
            None if the credential is not cached; call `identify` to verify it.
        """

    async def identify(self, credentials: Credentials) -> Principal:
        """Return the principal of a call.

        Raises:
            TokensThrottled: too many tokens of the address were rejected.
            Unauthenticated: the credentials do not identify a principal.
            Unavailable: the credential cannot be checked now.
        """

    def check_tenant(self, tenant: str) -> None:
        """Check that a tenant exists and is active.

        Raises:
            TenantSuspended: the tenant does not exist or is suspended.
        """


class Authenticate:
    """Creates the Call of an exchange.

    Args:
        authenticator: identifies principals; None if access control is off.
        needs: the right that each RPC needs, by path.
    """

    name: ClassVar[str] = "authenticate"
    needs: ClassVar[tuple[str, ...]] = ("request id", "address", "errors", "sizes")

    def __init__(self, authenticator: Authenticator | None, needs: Mapping[str, Need]) -> None:
        self._authenticator = authenticator
        self._needs = needs

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that creates the Call and calls `proceed`."""
        authenticator = self._authenticator
        name = short_name(method.path)
        if authenticator is None:
            return _unchecked(name, proceed)
        if self._needs.get(method.path) is Open.TO_ANYONE:
            return _open(name, proceed)

        def authenticate(exchange: Exchange) -> Awaitable[Message | None]:
            bearer, tenant = _read_headers(exchange)
            if bearer:
                principal = authenticator.recognize(bearer)
                if principal is not None:
                    _set_call(exchange, name, principal, tenant, authenticator.check_tenant)
                    return proceed(exchange)
            return identify(exchange, bearer, tenant)

        async def identify(exchange: Exchange, bearer: str, tenant: str) -> Message | None:
            principal = await authenticator.identify(
                Credentials(
                    bearer=bearer,
                    address=exchange.address,
                    certificate=certificate_properties(exchange.context.auth_context()),
                )
            )
            _set_call(exchange, name, principal, tenant, authenticator.check_tenant)
            return await proceed(exchange)

        return authenticate


def _open(method: str, proceed: Proceed) -> Proceed:
    def accept(exchange: Exchange) -> Awaitable[Message | None]:
        _set_call(exchange, method, _UNAUTHENTICATED, "", None)
        return proceed(exchange)

    return accept


def _unchecked(method: str, proceed: Proceed) -> Proceed:
    def accept(exchange: Exchange) -> Awaitable[Message | None]:
        tenant = ""
        for key, value in exchange.metadata:
            if key == TENANT:
                tenant = str(value)
        _set_call(exchange, method, ANONYMOUS, tenant, None)
        return proceed(exchange)

    return accept


def _read_headers(exchange: Exchange) -> tuple[str, str]:
    """Return the credential and the tenant of a call; each is empty if the header is missing.

    Raises:
        Unauthenticated: the header `authorization` is malformed.
    """
    bearer = tenant = ""
    for key, value in exchange.metadata:
        if key == AUTHORIZATION:
            text = str(value)
            if bearer or text[: len(_SCHEME)].lower() != _SCHEME or len(text) > _MAX_CREDENTIAL:
                raise Unauthenticated("the header 'authorization' is not one 'Bearer' credential")
            bearer = text[len(_SCHEME) :].strip()
        elif key == TENANT:
            tenant = str(value)
    return bearer, tenant


def _set_call(
    exchange: Exchange,
    method: str,
    principal: Principal,
    tenant: str,
    check_tenant: Callable[[str], None] | None,
) -> None:
    """Set the call of an exchange.

    Raises:
        PermissionDenied: the principal may not act in this tenant.
        TenantSuspended: the tenant is not active.
    """
    is_foreign = bool(tenant) and tenant != principal.tenant
    is_denied = is_foreign and Right.TENANTS_MANAGE not in principal.rights
    if is_denied or not is_foreign:
        tenant = principal.tenant
    remaining = exchange.context.time_remaining()
    # The audit log needs the call even if the call is denied.
    exchange.call = Call(
        correlation_id=exchange.request_id,
        principal=principal,
        tenant=tenant,
        address=exchange.address,
        method=method,
        deadline=None if remaining is None else time.monotonic() + remaining,
        metadata=exchange.metadata,
    )
    if is_denied:
        raise PermissionDenied(Right.TENANTS_MANAGE)
    if check_tenant is not None:
        check_tenant(tenant)

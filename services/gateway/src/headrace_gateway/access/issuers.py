"""Verifies the tokens of external issuers: JWTs (RFC 7519, RFC 8725)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

import jwt

from headrace_core.domain.access import (
    FULL_SCOPE,
    MAX_PRINCIPAL_NAME,
    AccessChange,
    Principal,
    PrincipalKind,
    Role,
    Scope,
    parse_scope,
)
from headrace_core.domain.errors import Unauthenticated
from headrace_core.domain.limits import is_name
from headrace_core.runtime.loop import Loop
from headrace_gateway.access.issuer_settings import ClaimPath, Issuer
from headrace_gateway.access.jwks import Jwk, KeySet
from headrace_gateway.access.unverified import read_claims, read_header

# The last second of the year 9998. A protobuf Timestamp ends a year later, which leaves room for
# the leeway.
_LAST_TIME: Final = 253_370_764_799
_MAX_CREDENTIAL: Final = 200


class IssuerTokens(Loop):
    """Verifies the tokens of external issuers; see `Verifier`. The loop refreshes their keys.

    Args:
        key_sets: the issuers with their keys.
    """

    name = "issuers"

    checks_signatures: ClassVar[bool] = True

    def __init__(self, key_sets: Sequence[KeySet]) -> None:
        self._key_sets = {key_set.issuer.issuer: key_set for key_set in key_sets}

    def accepts(self, bearer: str) -> bool:
        """Return whether a credential has the form of a JWT."""
        return bearer.count(".") == 2

    async def verify(self, bearer: str) -> Principal:
        """Return the principal of a token.

        Raises:
            Unauthenticated: the token is malformed, forged or expired, or its claims do not
                describe a principal.
            Unavailable: the keys of its issuer cannot be read now.
        """
        header, name = read_header(bearer), read_claims(bearer).get("iss")
        if not isinstance(name, str) or name not in self._key_sets:
            raise Unauthenticated
        key_set = self._key_sets[name]
        issuer = key_set.issuer
        algorithm, key_id = header.get("alg"), header.get("kid")
        # Critical header extensions are not supported (RFC 7515, section 4.1.11).
        if algorithm not in issuer.algorithms or "crit" in header:
            raise Unauthenticated
        keys = await key_set.find(key_id if isinstance(key_id, str) else "", algorithm)
        claims, jwk = _verify(bearer, keys, algorithm, issuer)
        try:
            return replace(to_principal(issuer, claims), issuer_key=jwk.fingerprint)
        except ValueError as error:
            raise Unauthenticated from error

    def forget(self, change: AccessChange | None) -> None:
        """Do nothing: only the issuer revokes its tokens."""

    def on_removed_keys(self, receive: Callable[[frozenset[str]], None]) -> None:
        """Call `receive` with the fingerprints of keys when their issuer has removed them."""
        for keys in self._key_sets.values():
            keys.on_removed = receive

    async def run_once(self) -> float:
        """Refresh the keys that are due, and return the seconds until the next read."""
        waits = await asyncio.gather(*(keys.refresh() for keys in self._key_sets.values()))
        return max(min(waits), 1.0)

    async def close(self) -> None:
        """Cancel the reads of keys that are in progress."""
        for keys in self._key_sets.values():
            await keys.close()


def _verify(
    bearer: str, keys: Sequence[Jwk], algorithm: str, issuer: Issuer
) -> tuple[dict[str, Any], Jwk]:
    """Return the claims of a token that one of the keys signed, and the key.

    Raises:
        Unauthenticated: the signature or a registered claim is not valid.
    """
    failure: Exception | None = None
    for jwk in keys:
        try:
            claims = jwt.decode(
                bearer,
                jwk.key,
                algorithms=[algorithm],
                issuer=issuer.issuer,
                audience=issuer.audience,
                leeway=issuer.leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            failure = error
        else:
            return claims, jwk
    raise Unauthenticated from failure


def to_principal(issuer: Issuer, claims: Mapping[str, Any]) -> Principal:
    """Return the principal of verified claims.

    Raises:
        ValueError: a claim is missing, malformed or not allowed.
    """
    token_id = claims.get("jti")
    expire_time = float(claims["exp"])
    if not 0 < expire_time < _LAST_TIME:
        raise ValueError("exp")
    return Principal.of(
        name=_name(issuer, claims),
        tenant=_tenant(issuer, claims),
        kind=PrincipalKind.TOKEN,
        role=_role(issuer, claims),
        scope=_scope(issuer, claims),
        credential=token_id[:_MAX_CREDENTIAL] if isinstance(token_id, str) else issuer.issuer,
        # A token is accepted for `leeway` after its `exp`.
        expire_time=expire_time + issuer.leeway,
    )


def _name(issuer: Issuer, claims: Mapping[str, Any]) -> str:
    claim = _claim(claims, issuer.claims.principal)
    if not isinstance(claim, str) or not claim:
        raise ValueError("principal")
    name = issuer.name_prefix + claim
    if len(name) > MAX_PRINCIPAL_NAME or not name.isprintable():
        raise ValueError("principal")
    return name


def _tenant(issuer: Issuer, claims: Mapping[str, Any]) -> str:
    tenant = _claim(claims, issuer.claims.tenant)
    if tenant is None:
        tenant = issuer.tenant
    if (
        not isinstance(tenant, str)
        or not is_name(tenant)
        or (issuer.tenants and tenant not in issuer.tenants)
    ):
        raise ValueError("tenant")
    return tenant


def _role(issuer: Issuer, claims: Mapping[str, Any]) -> Role:
    """Return the highest role that the claim names. Other values in a list are ignored."""
    values = _claim(claims, issuer.claims.role)
    if values is None:
        if issuer.role is None:
            raise ValueError("role")
        return issuer.role
    known = issuer.roles or {role.value: role for role in Role}
    named = [known[value] for value in _strings(values) if value in known]
    order = list(Role)
    if not named:
        raise ValueError("role")
    role = max(named, key=order.index)
    if order.index(role) > order.index(issuer.max_role):
        raise ValueError("role")
    return role


def _scope(issuer: Issuer, claims: Mapping[str, Any]) -> Scope:
    """Return the scope. A claim without an entry is invalid, because it would restrict nothing."""
    values = _claim(claims, issuer.claims.scope)
    if values is None:
        if issuer.claims.scope is not None and issuer.scope is None:
            raise ValueError("scope")
        return parse_scope(issuer.scope) if issuer.scope else FULL_SCOPE
    prefix = issuer.scope_prefix
    if isinstance(values, str):
        values = values.split()
    entries = [text.removeprefix(prefix) for text in _strings(values) if text.startswith(prefix)]
    if not entries:
        raise ValueError("scope")
    return parse_scope(entries)


def _claim(claims: Mapping[str, Any], path: ClaimPath | None) -> Any:
    """Return a claim; None if it is missing."""
    if path is None:
        return None
    value: Any = claims
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _strings(values: object) -> Iterable[str]:
    if isinstance(values, str):
        return (values,)
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return values
    raise ValueError("not a string or a list of strings")

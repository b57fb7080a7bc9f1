"""Tokens that the installation signs: those of users who logged in, and watch tokens.

A token is a JWT with an EdDSA signature. It identifies a principal without a query. Each token
contains the version of the changes of credentials (see `record_change`) at which its principal was
verified; a later change of its credential, its user or its minter revokes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, ClassVar, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from headrace_core.domain.access import (
    SIGNED_KINDS,
    SIGNING_KEY_CHANGE,
    TENANT_CHANGE,
    TENANT_CREATION,
    AccessChange,
    Minter,
    Principal,
    PrincipalKind,
    Role,
    parse_scope,
)
from headrace_core.domain.errors import Unauthenticated
from headrace_core.domain.signing_key import MAX_TOKEN_LIFETIME, is_signing_key_id
from headrace_core.store.access.changes import read_recent_changes
from headrace_core.store.access.signing_keys import ensure_signing_key, read_signing_keys
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_gateway.access.cache import TimedCache
from headrace_gateway.access.unverified import read_header

_ALGORITHM: Final = "EdDSA"

# Seconds for which the keys are cached. Replaced keys are valid for longer.
_KEYS_AGE: Final = 60.0
# The maximum number of cached unknown keys, and the lifetime of an entry in seconds.
_UNKNOWN_KEYS: Final = 1000
_UNKNOWN_AGE: Final = 5.0
# The maximum number of remembered changes. Tokens issued before the oldest one are rejected.
_MAX_CHANGES: Final = 100_000


class _MinterClaims(msgspec.Struct, frozen=True):
    kind: PrincipalKind
    tenant: str
    name: str
    credential: str


class _Claims(msgspec.Struct, frozen=True):
    """The claims of a token; each one is required."""

    sub: str
    tenant: str
    kind: PrincipalKind
    role: Role
    scope: tuple[str, ...]
    credential: str
    version: int
    exp: int
    minter: _MinterClaims | None


class InstallationTokens:
    """Issues and verifies the tokens of this installation; see `Verifier`.

    Args:
        database: the store of the keys and changes.
        installation: the installation whose tokens are valid.
        clock: returns monotonic seconds.
    """

    checks_signatures: ClassVar[bool] = True

    def __init__(
        self,
        *,
        database: Database,
        installation: Installation,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._installation = installation
        self._issuer = f"headrace:{installation.id}"
        self._clock = clock
        self._keys: Mapping[str, Ed25519PublicKey] = {}
        self._signing_key: tuple[str, Ed25519PrivateKey] | None = None
        self._keys_end = -inf
        self._unknown_keys: TimedCache[str, None] = TimedCache(size=_UNKNOWN_KEYS, clock=clock)
        self._changes: _Changes | None = None
        # The number of calls of `forget`.
        self._forgotten = 0

    async def issue(self, principal: Principal, *, version: int) -> str:
        """Return a token that identifies a principal until its `expire_time`.

        Args:
            principal: the principal, of a kind in SIGNED_KINDS. Its `expire_time` is at most
                MAX_TOKEN_LIFETIME away.
            version: the version of the changes (`read_version`), read before the credential or
                user on which the token depends. A later change revokes the token.

        Raises:
            Unavailable: PostgreSQL did not answer.
        """
        assert principal.kind in SIGNED_KINDS
        assert principal.expire_time is not None
        assert principal.expire_time <= time.time() + MAX_TOKEN_LIFETIME.total_seconds()
        await self._load_keys()
        if self._signing_key is None:
            async with self._database.transaction() as conn:
                await ensure_signing_key(conn)
            await self._load_keys(force=True)
        assert self._signing_key is not None
        key_id, key = self._signing_key
        minter = principal.minter
        claims = _Claims(
            sub=principal.name,
            tenant=principal.tenant,
            kind=principal.kind,
            role=principal.role,
            scope=tuple(principal.scope.entries()),
            credential=principal.credential,
            version=version,
            exp=int(principal.expire_time),
            minter=None
            if minter is None
            else _MinterClaims(
                kind=minter.kind,
                tenant=minter.tenant,
                name=minter.name,
                credential=minter.credential,
            ),
        )
        return jwt.encode(
            {**msgspec.to_builtins(claims), "iss": self._issuer, "aud": self._issuer},
            key,
            algorithm=_ALGORITHM,
            headers={"kid": key_id},
        )

    def accepts(self, bearer: str) -> bool:
        """Return whether a credential is a JWT that names a signing key of this installation."""
        key_id = read_header(bearer).get("kid")
        return isinstance(key_id, str) and is_signing_key_id(self._installation.secret, key_id)

    async def verify(self, bearer: str) -> Principal:
        """Return the principal of a token.

        Raises:
            Unauthenticated: the token is malformed, forged, expired or revoked.
            Unavailable: the keys are not cached, and PostgreSQL did not answer.
        """
        key = await self._find_key(str(read_header(bearer).get("kid")))
        try:
            claims = msgspec.convert(self._decode(bearer, key), _Claims)
            principal = _principal(claims)
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError, OverflowError) as error:
            raise Unauthenticated from error
        changes = self._changes or await self._load_changes()
        if changes.affects(principal, claims.version):
            raise Unauthenticated
        return principal

    def forget(self, change: AccessChange | None) -> None:
        """Apply a change, which can revoke tokens; None if changes were missed."""
        self._forgotten += 1
        if change is None:
            self._changes = None
            self._keys_end = -inf
        elif change.kind == SIGNING_KEY_CHANGE:
            self._keys_end = -inf
        elif self._changes is not None:
            self._changes.add(change)

    def _decode(self, bearer: str, key: Ed25519PublicKey) -> dict[str, Any]:
        return jwt.decode(
            bearer,
            key,
            algorithms=[_ALGORITHM],
            issuer=self._issuer,
            audience=self._issuer,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )

    async def _find_key(self, key_id: str) -> Ed25519PublicKey:
        """Return a valid key.

        Raises:
            Unauthenticated: the key is unknown or expired.
        """
        await self._load_keys()
        key = self._keys.get(key_id)
        if key is None and key_id not in self._unknown_keys:
            # Another gateway may have created the key since the last read.
            await self._load_keys(force=True)
            key = self._keys.get(key_id)
            if key is None:
                self._unknown_keys.put(key_id, None, seconds=_UNKNOWN_AGE)
        if key is None:
            raise Unauthenticated
        return key

    async def _load_keys(self, *, force: bool = False) -> None:
        if not force and self._clock() < self._keys_end:
            return
        while True:
            started, forgotten = self._clock(), self._forgotten
            async with self._database.statement() as conn:
                stored = await read_signing_keys(conn)
            # A change during the query may have revoked a key.
            if forgotten == self._forgotten:
                break
        private = {key.id: Ed25519PrivateKey.from_private_bytes(key.seed) for key in stored}
        self._keys = {key_id: key.public_key() for key_id, key in private.items()}
        self._signing_key = next(
            ((key.id, private[key.id]) for key in stored if key.expire_time is None), None
        )
        self._keys_end = started + _KEYS_AGE

    async def _load_changes(self) -> _Changes:
        while True:
            forgotten = self._forgotten
            async with self._database.statement() as conn:
                since, recent = await read_recent_changes(conn, limit=_MAX_CHANGES)
            # The query may have missed a change made during it.
            if forgotten == self._forgotten:
                break
        changes = _Changes(since)
        for change in recent:
            changes.add(change)
        self._changes = changes
        return changes


class _Changes:
    """The last change of each credential and user, within the lifetime of a token.

    Args:
        since: the version after which no change is missing.
    """

    def __init__(self, since: int) -> None:
        self._since = since
        # The version of the last change by kind, tenant and subject; in the order of versions.
        self._versions: dict[tuple[str, str, str], int] = {}

    def add(self, change: AccessChange) -> None:
        """Add a change; ignore versions older than a known one."""
        if change.kind == TENANT_CHANGE:
            # The gateway checks the state of the tenant in each call.
            return
        key = (change.kind, change.tenant, change.subject)
        previous = self._versions.pop(key, 0)
        self._versions[key] = max(previous, change.version)
        if len(self._versions) > _MAX_CHANGES:
            oldest = next(iter(self._versions))
            self._since = max(self._since, self._versions.pop(oldest))

    def affects(self, principal: Principal, version: int) -> bool:
        """Return whether a change after a version affects a principal or its minter.

        Return True also if such a change may have been dropped, because too many followed.
        """
        if version < self._since:
            return True
        owners: list[Principal | Minter] = [principal]
        if principal.minter is not None:
            owners.append(principal.minter)
        return any(
            self._versions.get((kind, owner.tenant, subject), 0) > version
            for owner in owners
            for kind, subject in (
                (owner.kind, owner.credential),
                (owner.kind, owner.name),
                # The token belongs to a deleted tenant with the same name.
                (TENANT_CREATION, owner.tenant),
            )
        )


def _principal(claims: _Claims) -> Principal:
    """Return the principal of verified claims.

    Raises:
        ValueError: the claims are not those of a token of this version.
    """
    minter = claims.minter
    if claims.kind not in SIGNED_KINDS:
        raise ValueError(claims.kind)
    # Anyone can mint a token while access control is off. Such a token is invalid once access
    # control is on.
    if minter is not None and minter.kind is PrincipalKind.ANONYMOUS:
        raise ValueError(minter.kind)
    return Principal.of(
        name=claims.sub,
        tenant=claims.tenant,
        kind=claims.kind,
        role=claims.role,
        scope=parse_scope(claims.scope),
        credential=claims.credential,
        expire_time=float(claims.exp),
        minter=None
        if minter is None
        else Minter(
            kind=minter.kind,
            tenant=minter.tenant,
            name=minter.name,
            credential=minter.credential,
        ),
        version=claims.version,
    )

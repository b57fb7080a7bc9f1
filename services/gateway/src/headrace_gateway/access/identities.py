"""The identities of callers: a cache of verified credentials, kept current."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from typing import ClassVar, Final, Protocol

import structlog

from headrace_core.domain.access import AccessChange, Principal, PrincipalKind, TenantState
from headrace_core.domain.errors import TenantSuspended, Unauthenticated
from headrace_core.domain.tenant import NO_QUOTAS, Quotas, TenantRules
from headrace_core.runtime.loop import Loop
from headrace_core.store.access.audit import read_reader_tenants
from headrace_core.store.access.changes import read_changes, read_version
from headrace_core.store.access.keys import note_uses
from headrace_core.store.access.tenants import read_tenant_rules
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic
from headrace_gateway.access.audit_writer import AuditWriter
from headrace_gateway.access.cache import TimedCache
from headrace_gateway.access.certificates import Certificates
from headrace_gateway.access.token_throttle import TokenThrottle
from headrace_gateway.calls.authenticate import Credentials
from headrace_gateway.calls.authorize import Sessions
from headrace_gateway.calls.peer_certificates import PEM

_log = structlog.get_logger()

# Seconds between two reads of the changes without a wake-up.
_INTERVAL: Final = 1.0
# Seconds after a read of the changes during which cached credentials are valid. Together with
# the duration of a read, a revocation takes effect within five seconds.
_FRESH: Final = 4.0
# The maximum number of cached credentials, and the lifetime of an entry in seconds.
_CACHE_SIZE: Final = 20_000
_MAX_AGE: Final = 60.0
# Seconds between two writes of the last uses of keys.
_USES_INTERVAL: Final = 30.0


class Verifier(Protocol):
    """Verifies one kind of credential.

    Attributes:
        checks_signatures: whether a verification takes much CPU time, so the rejected credentials
            of an address are limited.
    """

    checks_signatures: ClassVar[bool]

    def accepts(self, bearer: str) -> bool:
        """Return whether a credential has the form of this kind."""

    async def verify(self, bearer: str) -> Principal:
        """Return the principal of a credential.

        Raises:
            Unauthenticated: the credential is not valid.
            Unavailable: the credential cannot be verified now.
        """

    def forget(self, change: AccessChange | None) -> None:
        """Remove the cached values that a change affects, or all of them if the change is None."""


class IssuerVerifier(Verifier, Protocol):
    """Verifies the tokens of external issuers."""

    def on_removed_keys(self, receive: Callable[[frozenset[str]], None]) -> None:
        """Call `receive` with the fingerprints of keys when their issuer has removed them."""


class Identities(Loop):
    """Identifies principals; see `Authenticator`.

    The loop reads the changes of credentials and tenants, removes the cached principals that they
    affect, and ends the streams of these principals.

    Args:
        database: the store of the changes.
        verifiers: verify credentials; the first one that accepts a credential decides.
        issuers: verifies the tokens that no other verifier accepts; None without issuers.
        sessions: the open streams.
        audit: receives the names of the tenants that record reads of payloads.
        certificates: identifies callers without a bearer credential by their client certificates.
        clock: returns monotonic seconds.
    """

    name = "identities"
    topics = (Topic.ACCESS,)

    def __init__(
        self,
        *,
        database: Database,
        verifiers: Sequence[Verifier],
        sessions: Sessions,
        audit: AuditWriter,
        issuers: IssuerVerifier | None = None,
        certificates: Certificates | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._verifiers = tuple(verifiers)
        if issuers is not None:
            self._verifiers += (issuers,)
            issuers.on_removed_keys(self._reject_issuer_keys)
        self._sessions = sessions
        self._audit = audit
        self._certificates = certificates
        self._clock = clock
        # By the hash of the credential, because a memory dump should not contain secrets.
        self._known: TimedCache[bytes, Principal] = TimedCache(size=_CACHE_SIZE, clock=clock)
        self._throttle = TokenThrottle(clock=clock)
        self._tenants: Mapping[str, TenantRules] = {}
        self._version: int | None = None
        self._fresh_until = -inf
        self._used: set[str] = set()
        self._uses_written = clock()

    def recognize(self, bearer: str) -> Principal | None:
        """Return the principal of a cached credential; see `Authenticator`."""
        if self._clock() > self._fresh_until:
            return None
        try:
            principal = self._known[_digest(bearer)]
        except KeyError:
            return None
        if principal.kind is PrincipalKind.API_KEY:
            self._used.add(principal.credential)
        return principal

    async def identify(self, credentials: Credentials) -> Principal:
        """Verify a credential; see `Authenticator`."""
        bearer = credentials.bearer
        if not bearer:
            return await self._identify_certificate(credentials.certificate)
        for verifier in self._verifiers:
            if verifier.accepts(bearer):
                break
        else:
            raise Unauthenticated
        digest = _digest(bearer)
        if not verifier.checks_signatures:
            principal = await self._verify(digest, lambda: verifier.verify(bearer))
            if principal.kind is PrincipalKind.API_KEY:
                self._used.add(principal.credential)
            return principal
        self._throttle.check(credentials.address, bearer)
        try:
            principal = await self._verify(digest, lambda: verifier.verify(bearer))
        except Unauthenticated:
            self._throttle.reject(credentials.address, bearer)
            raise
        self._throttle.accept(credentials.address, bearer)
        return principal

    async def _identify_certificate(self, properties: Mapping[str, tuple[bytes, ...]]) -> Principal:
        certificates = self._certificates
        if certificates is None or not properties:
            raise Unauthenticated("the call has no credential")
        digest = hashlib.sha256(b"certificate\0" + properties[PEM][0]).digest()
        if self._clock() <= self._fresh_until:
            with suppress(KeyError):
                return self._known[digest]
        return await self._verify(digest, lambda: certificates.verify(properties))

    async def _verify(self, digest: bytes, verify: Callable[[], Awaitable[Principal]]) -> Principal:
        """Verify a credential against the current state, and remember its principal."""
        if self._clock() > self._fresh_until:
            await self.run_once()
        while True:
            version = self._version
            principal = await verify()
            # A change during the verification may affect this principal.
            if version == self._version:
                break
        # Another gateway may have issued the token at a later version.
        principal = replace(principal, version=max(principal.version, version or 0))
        seconds = _MAX_AGE
        if principal.expire_time is not None:
            seconds = min(seconds, principal.expire_time - time.time())
        self._known.put(digest, principal, seconds=seconds)
        return principal

    def _reject_issuer_keys(self, fingerprints: frozenset[str]) -> None:
        """Remove the principals whose tokens these keys signed, and end their streams."""

        def concerns(principal: Principal, tenant: str = "") -> bool:  # noqa: ARG001 - see Sessions
            return principal.issuer_key in fingerprints

        self._known.remove_if(concerns)
        ended = self._sessions.end(concerns)
        _log.info("issuer_keys_removed", keys=len(fingerprints), streams_ended=ended)

    def check_tenant(self, tenant: str) -> None:
        """Check that a tenant is active; see `Authenticator`."""
        rules = self._tenants.get(tenant)
        if rules is None or rules.state is not TenantState.ACTIVE:
            raise TenantSuspended(tenant)

    def quotas(self, tenant: str) -> Quotas:
        """Return the quotas of a tenant."""
        rules = self._tenants.get(tenant)
        return NO_QUOTAS if rules is None else rules.quotas

    async def run_once(self) -> float:
        """Read the changes since the previous run.

        Returns:
            Seconds until the next run without a wake-up.

        Raises:
            Unavailable: PostgreSQL did not answer.
        """
        started = self._clock()
        async with self._database.statement() as conn:
            if self._version is None:
                self._version = await read_version(conn)
                self._audit.readers = await read_reader_tenants(conn)
                self._tenants = await read_tenant_rules(conn)
            else:
                changes = await read_changes(conn, after=self._version)
                if changes is None:
                    self._version = await read_version(conn)
                if changes is None or changes:
                    self._audit.readers = await read_reader_tenants(conn)
                    self._tenants = await read_tenant_rules(conn)
                    self._apply(changes)
            if self._used and started - self._uses_written > _USES_INTERVAL:
                used, self._used = self._used, set()
                self._uses_written = started
                await note_uses(conn, dict.fromkeys(used, datetime.now(UTC)))
        self._fresh_until = started + _FRESH
        return _INTERVAL

    def _apply(self, changes: Sequence[AccessChange] | None) -> None:
        """Remove affected principals and end their streams; None affects all of them."""
        if changes is None:
            self._known.clear()
            self._forget(None)
            self._sessions.end(lambda *_: True)
            return
        for change in changes:
            self._version = change.version
            self._forget(change)
            self._known.remove_if(lambda known: change.concerns(known, known.tenant))  # noqa: B023 - called at once
            ended = self._sessions.end(change.concerns)
            _log.info("access_changed", kind=change.kind, tenant=change.tenant, streams_ended=ended)

    def _forget(self, change: AccessChange | None) -> None:
        for verifier in self._verifiers:
            verifier.forget(change)
        if self._certificates is not None:
            self._certificates.forget(change)


def _digest(bearer: str) -> bytes:
    return hashlib.sha256(bearer.encode()).digest()

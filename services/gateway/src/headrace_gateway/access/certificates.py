"""Identifies the principals of client certificates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from cryptography import x509

from headrace_core.domain.access import AccessChange, Principal, PrincipalKind
from headrace_core.domain.errors import Unauthenticated
from headrace_core.store.access.certificates import find_binding
from headrace_core.store.sql.database import Database
from headrace_gateway.access.cache import TimedCache
from headrace_gateway.calls.peer_certificates import PEM, certificate_names

# The maximum number of cached certificates without a binding, and the lifetime of an entry in
# seconds.
_CACHE_SIZE: Final = 1000
_MAX_AGE: Final = 10.0


class Certificates:
    """Identifies the principal of a client certificate by its subject alternative names.

    URIs take precedence over host names, in the order of the certificate.

    Args:
        database: the store of the bindings.
        clock: returns monotonic seconds.
    """

    def __init__(self, *, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        # The names of certificates without a binding.
        self._unbound: TimedCache[tuple[str, ...], None] = TimedCache(size=_CACHE_SIZE, clock=clock)
        # The number of changes of bindings, to detect a change during a query.
        self._changes = 0

    async def verify(self, properties: Mapping[str, tuple[bytes, ...]]) -> Principal:
        """Return the principal of a verified certificate.

        Args:
            properties: gRPC's properties of the connection.

        Raises:
            Unauthenticated: no name of the certificate has a binding, or the certificate expired.
            Unavailable: PostgreSQL did not answer.
        """
        # The certificate can expire while the connection is open.
        certificate = x509.load_pem_x509_certificate(properties[PEM][0])
        expire_time = certificate.not_valid_after_utc.timestamp()
        if expire_time <= time.time():
            raise Unauthenticated("the client certificate has expired")
        names = certificate_names(properties)
        if names in self._unbound:
            raise Unauthenticated(_UNBOUND)
        changes = self._changes
        async with self._database.statement() as conn:
            binding = await find_binding(conn, names)
        if binding is None:
            if changes == self._changes:
                self._unbound.put(names, None, seconds=_MAX_AGE)
            raise Unauthenticated(_UNBOUND)
        return Principal.of(
            name=binding.principal,
            tenant=binding.tenant,
            kind=PrincipalKind.CERTIFICATE,
            role=binding.role,
            scope=binding.scope,
            credential=binding.san,
            expire_time=expire_time,
        )

    def forget(self, change: AccessChange | None) -> None:
        """Empty the cache if a binding changed, or if the change is None."""
        if change is None or change.kind == PrincipalKind.CERTIFICATE:
            self._changes += 1
            self._unbound.clear()


_UNBOUND: Final = "no name of the client certificate is bound to a principal"

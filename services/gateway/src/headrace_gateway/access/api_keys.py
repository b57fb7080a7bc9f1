"""Verifies API keys. `headrace_core.domain.api_key` defines their form."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import ClassVar, Final

from headrace_core.domain.access import (
    TENANT_CREATION,
    AccessChange,
    ApiKey,
    Principal,
    PrincipalKind,
)
from headrace_core.domain.api_key import API_KEY_PREFIX, read_api_key
from headrace_core.domain.errors import Unauthenticated
from headrace_core.store.access.keys import find_api_key
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_gateway.access.cache import TimedCache

# The maximum number of cached keys, and the lifetime of an entry in seconds. A change of a key
# removes its entry earlier. Unknown keys are cached too, which is safe because each new key has a
# new id.
_CACHE_SIZE: Final = 10_000
_MAX_AGE: Final = 60.0


class ApiKeys:
    """Verifies API keys.

    Args:
        database: the store of the keys.
        installation: the installation whose keys are valid.
        clock: returns monotonic seconds.
    """

    checks_signatures: ClassVar[bool] = False

    def __init__(
        self,
        *,
        database: Database,
        installation: Installation,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._installation = installation
        # The principal and the hash of the secret, by id; None for an unknown or invalid key.
        self._keys: TimedCache[str, tuple[Principal, bytes] | None] = TimedCache(
            size=_CACHE_SIZE, clock=clock
        )
        # The number of changes of keys, to detect a change during a query.
        self._changes = 0

    def accepts(self, bearer: str) -> bool:
        """Return whether a credential has the form of an API key."""
        return bearer.startswith(API_KEY_PREFIX)

    async def verify(self, bearer: str) -> Principal:
        """Return the principal of a key.

        Raises:
            Unauthenticated: the key is malformed, unknown, expired or revoked.
            Unavailable: PostgreSQL did not answer.
        """
        read = read_api_key(self._installation.secret, bearer)
        if read is None:
            raise Unauthenticated
        key_id, secret_hash = read
        try:
            known = self._keys[key_id]
        except KeyError:
            changes = self._changes
            async with self._database.statement() as conn:
                stored = await find_api_key(conn, key_id=key_id)
            known = None if stored is None else (_principal(stored[0]), stored[1])
            # A change during the query may affect this key.
            if changes == self._changes:
                self._keys.put(key_id, known, seconds=_MAX_AGE)
        if known is None or not hmac.compare_digest(known[1], secret_hash):
            raise Unauthenticated
        principal = known[0]
        if principal.expire_time is not None and principal.expire_time <= time.time():
            raise Unauthenticated
        return principal

    def forget(self, change: AccessChange | None) -> None:
        """Remove the keys that a change affects, or all keys if the change is None."""
        if change is None:
            self._changes += 1
            self._keys.clear()
        elif change.kind == PrincipalKind.API_KEY:
            self._changes += 1
            self._keys.remove(change.subject)
        elif change.kind == TENANT_CREATION:
            # A deleted tenant may have had the same name.
            self._changes += 1
            self._keys.remove_if(
                lambda known: known is not None and known[0].tenant == change.tenant
            )


def _principal(key: ApiKey) -> Principal:
    return Principal.of(
        name=key.principal,
        tenant=key.tenant,
        kind=PrincipalKind.API_KEY,
        role=key.role,
        scope=key.scope,
        credential=key.id,
        expire_time=None if key.expire_time is None else key.expire_time.timestamp(),
    )

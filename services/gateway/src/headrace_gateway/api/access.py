"""The use cases of access control: the principal of a call, and the API keys of a tenant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import structlog

from headrace_core.domain.access import ApiKey, Role, Scope, parse_scope
from headrace_core.domain.api_key import new_api_key
from headrace_core.domain.errors import PermissionDenied, Violation
from headrace_core.store.access.keys import create_api_key, list_api_keys, revoke_api_key
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.access.audit import record_audit
from headrace_gateway.api.pages import Page, fill_page
from headrace_gateway.api.validation import Violations, check_principal, page_limit
from headrace_gateway.calls.call import Call
from headrace_gateway.tokens import decode_name_token, encode_name_token

_log = structlog.get_logger()

_KEYS: Final = "api keys"


class IssuedKey(NamedTuple):
    """A new key, and the complete key with its secret."""

    key: ApiKey
    secret: str


class Access:
    """The use cases of API keys.

    Args:
        database: the store of the keys.
        installation: signs keys and page tokens.
        bus: wakes the gateways after each change.
    """

    def __init__(self, *, database: Database, installation: Installation, bus: WakeBus) -> None:
        self._database = database
        self._installation = installation
        self._bus = bus

    async def create_key(
        self,
        call: Call,
        *,
        principal: str,
        role: Role,
        scope: Sequence[str] = (),
        expire_time: datetime | None = None,
        violations: Sequence[Violation] = (),
    ) -> IssuedKey:
        """Create an API key in the tenant of the call.

        Args:
            call: the call.
            principal: the principal that the key identifies.
            role: the role.
            scope: the entries of the scope; see `parse_scope`.
            expire_time: the time at which the key expires; None for never.
            violations: the violations that the transport found in the request.

        Raises:
            InvalidRequest: an argument is invalid.
            PermissionDenied: the key would have a right that the caller lacks.
        """
        found = Violations(violations)
        check_principal(principal, found)
        parsed = read_scope(scope, found)
        if expire_time is not None and expire_time <= datetime.now(UTC):
            found.note("expire_time", "must be in the future")
        found.check()
        check_grant(call, role, parsed)
        new = new_api_key(self._installation.secret)
        async with self._database.transaction() as conn:
            key = await create_api_key(
                conn,
                key_id=new.id,
                secret_hash=new.secret_hash,
                tenant=call.tenant,
                principal=principal,
                role=role,
                scope=parsed,
                created_by=call.principal.name,
                expire_time=expire_time,
            )
            await record_audit(conn, call, target=f"api key {key.id} of {principal}")
        _log.info("api_key_created", key=key.id, principal=principal, role=role)
        return IssuedKey(key, new.text)

    async def list_keys(
        self, call: Call, page: Page[ApiKey], *, size: int = 0, token: str = ""
    ) -> str:
        """Fill a page with the keys of the tenant, by id.

        Args:
            call: the call.
            page: receives the keys.
            size: the maximum number of keys on the page; 0 for the default.
            token: the token of the page; empty for the first one.

        Returns:
            The token of the next page; empty after the last one.

        Raises:
            InvalidRequest: the size or the token is invalid.
        """
        found = Violations()
        limit = page_limit(size, found)
        found.check()
        after = decode_name_token(self._installation, call.tenant, token, of=_KEYS)

        async def read(after: str, wanted: int) -> tuple[Sequence[ApiKey], bool]:
            # One extra key shows whether more keys follow.
            keys = await list_api_keys(conn, tenant=call.tenant, after=after, limit=wanted + 1)
            return keys[:wanted], len(keys) <= wanted

        async with self._database.statement() as conn:
            last = await fill_page(page, read, key=lambda key: key.id, after=after, size=limit)
        return encode_name_token(self._installation, call.tenant, last, of=_KEYS) if last else ""

    async def revoke_key(self, call: Call, key_id: str) -> ApiKey:
        """Revoke a key: gateways reject it within seconds, and end its streams.

        Raises:
            AccessNotFound: the tenant has no such key.
        """
        async with self._database.transaction() as conn:
            key = await revoke_api_key(conn, tenant=call.tenant, key_id=key_id)
            await record_audit(conn, call, target=f"api key {key.id} of {key.principal}")
        self._bus.publish(Topic.ACCESS)
        _log.info("api_key_revoked", key=key_id)
        return key


def read_scope(entries: Sequence[str], found: Violations) -> Scope:
    """Return the scope of its entries; after a violation, an empty scope."""
    try:
        return parse_scope(entries)
    except ValueError as error:
        found.note("scope", str(error))
        return Scope()


def check_grant(call: Call, role: Role, scope: Scope) -> None:
    """Check that the principal of a call may give a role within a scope to another one.

    Raises:
        PermissionDenied: the other one would have a right that the principal lacks.
    """
    if not call.principal.may_grant(role, scope):
        raise PermissionDenied(f"to grant the role {role} with this scope")

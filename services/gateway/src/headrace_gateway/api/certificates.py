"""The use cases of certificate bindings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from headrace_core.domain.access import Role
from headrace_core.domain.certificate import CertificateBinding, parse_san
from headrace_core.domain.errors import Violation
from headrace_core.store.access.certificates import create_binding, delete_binding, list_bindings
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.access.audit import record_audit
from headrace_gateway.api.access import check_grant, read_scope
from headrace_gateway.api.pages import Page, fill_page, split_page
from headrace_gateway.api.validation import Violations, check_principal, page_limit
from headrace_gateway.calls.call import Call
from headrace_gateway.tokens import decode_name_token, encode_name_token

_log = structlog.get_logger()

_BINDINGS: Final = "certificate bindings"


class CertificateBindings:
    """The use cases of certificate bindings.

    Args:
        database: the store of the bindings.
        installation: signs page tokens.
        bus: wakes the gateways after each change.
    """

    def __init__(self, *, database: Database, installation: Installation, bus: WakeBus) -> None:
        self._database = database
        self._installation = installation
        self._bus = bus

    async def bind(
        self,
        call: Call,
        *,
        san: str,
        principal: str,
        role: Role,
        scope: Sequence[str] = (),
        violations: Sequence[Violation] = (),
    ) -> CertificateBinding:
        """Bind a subject alternative name to a principal in the tenant of the call.

        Args:
            call: the call.
            san: the name; see `parse_san`.
            principal: the principal.
            role: the role.
            scope: the entries of the scope; see `parse_scope`.
            violations: the violations that the transport found in the request.

        Raises:
            InvalidRequest: an argument is invalid.
            PermissionDenied: the binding would grant a right that the caller lacks.
            AccessConflict: the name is already bound.
        """
        found = Violations(violations)
        name = _read_san(san, found)
        check_principal(principal, found)
        parsed = read_scope(scope, found)
        found.check()
        check_grant(call, role, parsed)
        async with self._database.transaction() as conn:
            binding = await create_binding(
                conn,
                san=name,
                tenant=call.tenant,
                principal=principal,
                role=role,
                scope=parsed,
                created_by=call.principal.name,
            )
            await record_audit(conn, call, target=f"certificate binding {name} of {principal}")
        self._bus.publish(Topic.ACCESS)
        _log.info("certificate_bound", san=name, principal=principal, role=role)
        return binding

    async def list_bound(
        self, call: Call, page: Page[CertificateBinding], *, size: int = 0, token: str = ""
    ) -> str:
        """Fill a page with the bindings of the tenant, by name.

        Args:
            call: the call.
            page: receives the bindings.
            size: the maximum number of bindings on the page; 0 for the default.
            token: the token of the page; empty for the first one.

        Returns:
            The token of the next page; empty after the last one.

        Raises:
            InvalidRequest: the size or the token is invalid.
        """
        found = Violations()
        limit = page_limit(size, found)
        found.check()
        after = decode_name_token(self._installation, call.tenant, token, of=_BINDINGS)

        async def read(after: str, wanted: int) -> tuple[Sequence[CertificateBinding], bool]:
            rows = await list_bindings(conn, tenant=call.tenant, after=after, limit=wanted + 1)
            return split_page(rows, wanted)

        async with self._database.statement() as conn:
            last = await fill_page(page, read, key=lambda one: one.san, after=after, size=limit)
        if not last:
            return ""
        return encode_name_token(self._installation, call.tenant, last, of=_BINDINGS)

    async def unbind(self, call: Call, san: str) -> CertificateBinding:
        """Delete a binding: gateways reject its certificates within seconds, and end their streams.

        Raises:
            InvalidRequest: the name is malformed.
            AccessNotFound: the tenant has no such binding.
        """
        found = Violations()
        name = _read_san(san, found)
        found.check()
        async with self._database.transaction() as conn:
            binding = await delete_binding(conn, tenant=call.tenant, san=name)
            await record_audit(
                conn, call, target=f"certificate binding {name} of {binding.principal}"
            )
        self._bus.publish(Topic.ACCESS)
        _log.info("certificate_unbound", san=name)
        return binding


def _read_san(text: str, found: Violations) -> str:
    """Return a subject alternative name; after a violation, the text."""
    try:
        return parse_san(text)
    except ValueError as error:
        found.note("san", str(error))
        return text

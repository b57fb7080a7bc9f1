"""Bindings of client certificates to principals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import text

from headrace_core.domain.access import PrincipalKind, Role, Scope, parse_scope
from headrace_core.domain.certificate import CertificateBinding
from headrace_core.domain.errors import AccessConflict, AccessNotFound
from headrace_core.store.access.changes import record_change
from headrace_core.store.sql.connection import Connection, Row

_KIND: Final = "certificate binding"


async def create_binding(
    conn: Connection,
    *,
    san: str,
    tenant: str,
    principal: str,
    role: Role,
    scope: Scope,
    created_by: str,
) -> CertificateBinding:
    """Store a binding; needs a transaction. See CertificateBinding for the arguments.

    Raises:
        AccessConflict: the name is already bound in some tenant.
    """
    row = (
        await conn.execute(
            _CREATE,
            {
                "san": san,
                "tenant": tenant,
                "principal": principal,
                "role": role,
                "scope": scope.entries(),
                "created_by": created_by,
            },
        )
    ).one_or_none()
    if row is None:
        raise AccessConflict(_KIND, san)
    # Gateways cache names without a binding, so a new binding is a change too.
    await record_change(conn, tenant=tenant, kind=PrincipalKind.CERTIFICATE, subject=san)
    return _to_binding(row)


async def list_bindings(
    conn: Connection, *, tenant: str, after: str, limit: int
) -> Sequence[CertificateBinding]:
    """Return up to `limit` bindings of a tenant in order of name, after the name `after`."""
    rows = await conn.execute(_LIST, {"tenant": tenant, "after": after, "limit": limit})
    return [_to_binding(row) for row in rows]


async def delete_binding(conn: Connection, *, tenant: str, san: str) -> CertificateBinding:
    """Delete a binding; needs a transaction.

    Raises:
        AccessNotFound: the tenant has no such binding.
    """
    row = (await conn.execute(_DELETE, {"tenant": tenant, "san": san})).one_or_none()
    if row is None:
        raise AccessNotFound(_KIND, san)
    await record_change(conn, tenant=tenant, kind=PrincipalKind.CERTIFICATE, subject=san)
    return _to_binding(row)


async def find_binding(conn: Connection, sans: Sequence[str]) -> CertificateBinding | None:
    """Return the binding of the first name that has one; None if no name has one."""
    row = (await conn.execute(_FIND, {"sans": list(sans)})).one_or_none()
    return None if row is None else _to_binding(row)


def _to_binding(row: Row) -> CertificateBinding:
    return CertificateBinding(
        san=row.san,
        tenant=row.tenant,
        principal=row.principal,
        role=Role(row.role),
        scope=parse_scope(row.scope),
        created_by=row.created_by,
        create_time=row.create_time,
    )


_COLUMNS = "san, tenant, principal, role, scope, created_by, create_time"

_CREATE = text(f"""
    INSERT INTO certificate_bindings (san, tenant, principal, role, scope, created_by)
    VALUES (:san, :tenant, :principal, :role, CAST(:scope AS text[]), :created_by)
    ON CONFLICT (san) DO NOTHING
    RETURNING {_COLUMNS}
""")

_LIST = text(f"""
    SELECT {_COLUMNS} FROM certificate_bindings
    WHERE tenant = :tenant AND san > :after ORDER BY san LIMIT :limit
""")

_DELETE = text(f"""
    DELETE FROM certificate_bindings WHERE tenant = :tenant AND san = :san RETURNING {_COLUMNS}
""")

_FIND = text(f"""
    SELECT {_COLUMNS} FROM certificate_bindings
    WHERE san = ANY (CAST(:sans AS text[]))
    ORDER BY array_position(CAST(:sans AS text[]), san) LIMIT 1
""")

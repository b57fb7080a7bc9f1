"""The first admin of a tenant, for an operator with access to the database."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

from headrace_core.domain.access import MAX_PRINCIPAL_NAME, Right, Role, Scope
from headrace_core.domain.api_key import new_api_key
from headrace_core.domain.audit import COMMAND_LINE, AuditEntry
from headrace_core.domain.errors import AccessConflict
from headrace_core.domain.user import USER_NAME_RULE, is_user_name, new_password
from headrace_core.store.access.audit import record_audit
from headrace_core.store.access.keys import create_api_key
from headrace_core.store.access.passwords import hash_password
from headrace_core.store.access.users import create_user, lock_user, update_user
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.installation import read_installation

_CREATED_BY: Final = "bootstrap"
# Only a principal with this right can grant it to others.
_SCOPE: Final = Scope(rights=frozenset({Right.PAYLOAD_READ}))


class BootstrapRejected(Exception):
    """The first admin cannot be created; the message has the reason."""


async def bootstrap_user(
    conn: Connection, *, tenant: str, name: str, role: Role, force: bool = False
) -> str:
    """Create the first admin of a tenant as a user, in a transaction.

    Args:
        conn: the transaction.
        tenant: the tenant.
        name: the name of the user.
        role: the role.
        force: whether to continue if the tenant has an admin. A user with this name gets the role
            and a new password.

    Returns:
        The random password.

    Raises:
        BootstrapRejected: the tenant has an admin or does not exist, or the name is invalid.
    """
    if not is_user_name(name):
        raise BootstrapRejected(f"the name of a user {USER_NAME_RULE}")
    await _check(conn, tenant, force=force)
    password = new_password()
    password_hash = hash_password(password)
    try:
        await create_user(
            conn,
            tenant=tenant,
            name=name,
            role=role,
            scope=_SCOPE,
            password_hash=password_hash,
            created_by=_CREATED_BY,
        )
    except AccessConflict:
        if not force:
            raise BootstrapRejected(
                f"user {name!r} exists and is not an enabled admin; choose another name, or use "
                "--force to give it the role and a new password"
            ) from None
        user = await lock_user(conn, tenant=tenant, name=name)
        await update_user(
            conn, user, role=role, scope=_SCOPE, disabled=False, password_hash=password_hash
        )
    await _record(conn, tenant=tenant, target=f"user {name}")
    return password


async def bootstrap_key(
    conn: Connection, *, tenant: str, principal: str, role: Role, force: bool = False
) -> str:
    """Create the first admin of a tenant as an API key, in a transaction.

    Args:
        conn: the transaction.
        tenant: the tenant.
        principal: the principal that the key identifies.
        role: the role.
        force: whether to continue if the tenant has an admin.

    Returns:
        The complete key.

    Raises:
        BootstrapRejected: the tenant has an admin or does not exist, or the name is invalid.
    """
    if not 0 < len(principal) <= MAX_PRINCIPAL_NAME or not principal.isprintable():
        raise BootstrapRejected(
            f"the principal of a key must have 1 to {MAX_PRINCIPAL_NAME} printable characters"
        )
    await _check(conn, tenant, force=force)
    key = new_api_key((await read_installation(conn)).secret)
    await create_api_key(
        conn,
        key_id=key.id,
        secret_hash=key.secret_hash,
        tenant=tenant,
        principal=principal,
        role=role,
        scope=_SCOPE,
        created_by=_CREATED_BY,
        expire_time=None,
    )
    await _record(conn, tenant=tenant, target=f"api key {key.id} of {principal}")
    return key.text


async def _record(conn: Connection, *, tenant: str, target: str) -> None:
    entry = AuditEntry(tenant=tenant, principal=COMMAND_LINE, method=_CREATED_BY, target=target)
    await record_audit(conn, entry)


async def _check(conn: Connection, tenant: str, *, force: bool) -> None:
    """Check that a tenant exists and has no admin. Concurrent checks wait for the transaction.

    Raises:
        BootstrapRejected: the tenant does not exist, or has an admin and `force` is False.
    """
    await conn.execute(_LOCK)
    row = (await conn.execute(_ADMINS, {"tenant": tenant})).one_or_none()
    if row is None:
        raise BootstrapRejected(f"tenant {tenant!r} does not exist")
    if row.has_admin and not force:
        raise BootstrapRejected(
            f"tenant {tenant!r} has an admin, who can create others; use --force to create "
            "another one anyway"
        )


_LOCK = text("SELECT version FROM access_version FOR UPDATE")

_ADMINS = text("""
    SELECT EXISTS (
        SELECT FROM api_keys
        WHERE tenant = t.name AND role IN ('admin', 'platform') AND revoke_time IS NULL
            AND (expire_time IS NULL OR expire_time > clock_timestamp())
    ) OR EXISTS (
        SELECT FROM users
        WHERE tenant = t.name AND role IN ('admin', 'platform') AND NOT disabled
    ) AS has_admin
    FROM tenants t WHERE t.name = :tenant
""")

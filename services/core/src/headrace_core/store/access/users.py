"""Users. Only the Argon2id hash of a password is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import text

from headrace_core.domain.access import PrincipalKind, Role, Scope, TenantState
from headrace_core.domain.errors import AccessConflict, AccessNotFound
from headrace_core.domain.repeatable import REPEAT_WINDOW
from headrace_core.domain.user import LoginCandidate, User
from headrace_core.store.access.changes import record_change
from headrace_core.store.access.sessions import end_sessions
from headrace_core.store.access.user_rows import USER_COLUMNS, to_user
from headrace_core.store.sql.connection import Connection

_KIND: Final = "user"


async def create_user(
    conn: Connection,
    *,
    tenant: str,
    name: str,
    role: Role,
    scope: Scope,
    password_hash: str,
    created_by: str,
) -> User:
    """Store a user; see User for the arguments.

    Raises:
        AccessConflict: the tenant already has a user with this name.
    """
    rows = await conn.execute(
        _CREATE,
        {
            "tenant": tenant,
            "name": name,
            "role": role,
            "scope": scope.entries(),
            "password_hash": password_hash,
            "created_by": created_by,
        },
    )
    row = rows.one_or_none()
    if row is None:
        raise AccessConflict(_KIND, name)
    return to_user(row)


async def find_repeated_user(
    conn: Connection, *, tenant: str, name: str, role: Role, scope: Scope, created_by: str
) -> tuple[User, str] | None:
    """Return the user that an earlier attempt of a request may have created.

    The caller must compare the password.

    Returns:
        The user and the hash of its password; None if no enabled user has this content, or if it
        was created longer ago than `REPEAT_WINDOW`.
    """
    rows = await conn.execute(
        _FIND_REPEATED,
        {
            "tenant": tenant,
            "name": name,
            "role": role,
            "scope": scope.entries(),
            "created_by": created_by,
            "window": REPEAT_WINDOW,
        },
    )
    row = rows.one_or_none()
    return None if row is None else (to_user(row), row.password_hash)


async def list_users(conn: Connection, *, tenant: str, after: str, limit: int) -> Sequence[User]:
    """Return the users of a tenant with names after `after`, in order, at most `limit`."""
    rows = await conn.execute(_LIST, {"tenant": tenant, "after": after, "limit": limit})
    return [to_user(row) for row in rows]


async def lock_user(conn: Connection, *, tenant: str, name: str) -> User:
    """Return a user, and lock its row until the end of the transaction.

    Raises:
        AccessNotFound: the tenant has no such user.
    """
    row = (await conn.execute(_LOCK, {"tenant": tenant, "name": name})).one_or_none()
    if row is None:
        raise AccessNotFound(_KIND, name)
    return to_user(row)


async def update_user(
    conn: Connection,
    user: User,
    *,
    role: Role,
    scope: Scope,
    disabled: bool,
    password_hash: str | None,
) -> User:
    """Change a locked user. A new password, or disabling the user, ends its sessions.

    Args:
        conn: the transaction.
        user: the user before the change.
        role: the role after the change.
        scope: the scope after the change.
        disabled: whether logins are rejected after the change.
        password_hash: the hash of the new password; None to keep the password.
    """
    key = {"tenant": user.tenant, "name": user.name}
    rows = await conn.execute(
        _UPDATE,
        {
            **key,
            "role": role,
            "scope": scope.entries(),
            "disabled": disabled,
            "password_hash": password_hash,
        },
    )
    if disabled or password_hash is not None:
        await end_sessions(conn, tenant=user.tenant, username=user.name)
    await _record(conn, user)
    return to_user(rows.one())


async def change_password(
    conn: Connection, user: User, *, old_hash: str, new_hash: str, kept_session: str
) -> bool:
    """Replace a password and end the other sessions of the user, in a transaction.

    Args:
        conn: the transaction.
        user: the user.
        old_hash: the hash that was verified.
        new_hash: the hash of the new password.
        kept_session: the id of the session to keep.

    Returns:
        False if the password has changed since it was verified.
    """
    changed = await conn.execute(
        _CHANGE_PASSWORD,
        {"tenant": user.tenant, "name": user.name, "old_hash": old_hash, "new_hash": new_hash},
    )
    if not changed.rowcount:
        return False
    await end_sessions(conn, tenant=user.tenant, username=user.name, kept=kept_session)
    await _record(conn, user)
    return True


async def rehash_password(conn: Connection, user: User, *, old_hash: str, new_hash: str) -> None:
    """Replace the hash of a password by one with newer parameters."""
    await conn.execute(
        _REHASH,
        {"tenant": user.tenant, "name": user.name, "old_hash": old_hash, "new_hash": new_hash},
    )


async def delete_user(conn: Connection, user: User) -> None:
    """Delete a locked user with its sessions."""
    await conn.execute(_DELETE, {"tenant": user.tenant, "name": user.name})
    await _record(conn, user)


async def find_login(
    conn: Connection, *, tenant: str, name: str, address: str
) -> LoginCandidate | None:
    """Return a user with the data for a login; None if the user is unknown.

    Args:
        conn: the connection.
        tenant: the tenant.
        name: the name of the user.
        address: the address of the caller; see `LoginCandidate.knows_address`.
    """
    row = (
        await conn.execute(_FIND_LOGIN, {"tenant": tenant, "name": name, "address": address})
    ).one_or_none()
    if row is None:
        return None
    return LoginCandidate(
        user=to_user(row),
        password_hash=row.password_hash,
        tenant_state=TenantState(row.tenant_state),
        knows_address=row.knows_address,
    )


async def _record(conn: Connection, user: User) -> None:
    await record_change(conn, tenant=user.tenant, kind=PrincipalKind.USER, subject=user.name)


_CREATE = text(f"""
    INSERT INTO users AS u (tenant, name, role, scope, password_hash, created_by)
    VALUES (:tenant, :name, :role, CAST(:scope AS text[]), :password_hash, :created_by)
    ON CONFLICT (tenant, name) DO NOTHING
    RETURNING {USER_COLUMNS}
""")

_LIST = text(f"""
    SELECT {USER_COLUMNS} FROM users u
    WHERE u.tenant = :tenant AND u.name > :after ORDER BY u.name LIMIT :limit
""")

_LOCK = text(f"""
    SELECT {USER_COLUMNS} FROM users u WHERE u.tenant = :tenant AND u.name = :name FOR UPDATE
""")

_UPDATE = text(f"""
    UPDATE users AS u
    SET role = :role, scope = CAST(:scope AS text[]), disabled = :disabled,
        password_hash = coalesce(CAST(:password_hash AS text), u.password_hash),
        password_time = CASE WHEN CAST(:password_hash AS text) IS NULL THEN u.password_time
            ELSE clock_timestamp() END
    WHERE u.tenant = :tenant AND u.name = :name
    RETURNING {USER_COLUMNS}
""")

_FIND_REPEATED = text(f"""
    SELECT {USER_COLUMNS}, u.password_hash FROM users u
    WHERE u.tenant = :tenant AND u.name = :name AND u.role = :role
        AND u.scope = CAST(:scope AS text[]) AND u.created_by = :created_by AND NOT u.disabled
        AND u.create_time > clock_timestamp() - CAST(:window AS interval)
""")

_CHANGE_PASSWORD = text("""
    UPDATE users SET password_hash = :new_hash, password_time = clock_timestamp()
    WHERE tenant = :tenant AND name = :name AND password_hash = :old_hash AND NOT disabled
""")

_REHASH = text("""
    UPDATE users SET password_hash = :new_hash
    WHERE tenant = :tenant AND name = :name AND password_hash = :old_hash
""")

_DELETE = text("DELETE FROM users WHERE tenant = :tenant AND name = :name")

_FIND_LOGIN = text(f"""
    SELECT {USER_COLUMNS}, u.password_hash, t.state AS tenant_state, EXISTS (
        SELECT FROM sessions s
        WHERE s.tenant = u.tenant AND s.username = u.name AND s.address = :address
    ) AS knows_address
    FROM users u JOIN tenants t ON t.name = u.tenant
    WHERE u.tenant = :tenant AND u.name = :name
""")

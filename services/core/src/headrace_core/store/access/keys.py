"""API keys. Only the hash of a secret is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import text

from headrace_core.domain.access import ApiKey, PrincipalKind, Role, Scope, parse_scope
from headrace_core.domain.errors import AccessConflict, AccessNotFound
from headrace_core.domain.repeatable import REPEAT_WINDOW
from headrace_core.store.access.changes import record_change
from headrace_core.store.sql.connection import Connection, Row

_KIND: Final = "api key"
_CONFLICT: Final = (
    "an earlier request used this request_id with other content or more than 10 minutes ago, or "
    "its key is revoked; use a new request_id"
)


async def create_api_key(
    conn: Connection,
    *,
    key_id: str,
    secret_hash: bytes,
    tenant: str,
    principal: str,
    role: Role,
    scope: Scope,
    created_by: str,
    expire_time: datetime | None,
) -> ApiKey:
    """Store a key; see ApiKey for the arguments.

    A repeated call returns the stored key, if the key has the same content, is not revoked and was
    created within `REPEAT_WINDOW`.

    Raises:
        AccessConflict: a key with this id exists, and this call does not repeat its creation.
    """
    rows = await conn.execute(
        _CREATE,
        {
            "id": key_id,
            "secret_hash": secret_hash,
            "tenant": tenant,
            "principal": principal,
            "role": role,
            "scope": scope.entries(),
            "created_by": created_by,
            "expire_time": expire_time,
        },
    )
    row = rows.one_or_none()
    if row is not None:
        return _to_key(row)
    repeated = {"id": key_id, "secret_hash": secret_hash, "window": REPEAT_WINDOW}
    row = (await conn.execute(_FIND_REPEATED, repeated)).one_or_none()
    if row is not None:
        key = _to_key(row)
        content = (key.tenant, key.principal, key.role, key.scope, key.created_by, key.expire_time)
        if content == (tenant, principal, role, scope, created_by, expire_time):
            return key
    raise AccessConflict(_KIND, key_id, _CONFLICT)


async def list_api_keys(
    conn: Connection, *, tenant: str, after: str, limit: int
) -> Sequence[ApiKey]:
    """Return the keys of a tenant with ids after `after`, in order, at most `limit`."""
    rows = await conn.execute(_LIST, {"tenant": tenant, "after": after, "limit": limit})
    return [_to_key(row) for row in rows]


async def revoke_api_key(conn: Connection, *, tenant: str, key_id: str) -> ApiKey:
    """Revoke a key, in a transaction. A revoked key stays revoked.

    Raises:
        AccessNotFound: the tenant has no such key.
    """
    row = (await conn.execute(_REVOKE, {"tenant": tenant, "id": key_id})).one_or_none()
    if row is None:
        raise AccessNotFound(_KIND, key_id)
    await record_change(conn, tenant=tenant, kind=PrincipalKind.API_KEY, subject=key_id)
    return _to_key(row)


async def find_api_key(conn: Connection, *, key_id: str) -> tuple[ApiKey, bytes] | None:
    """Return a valid key and the hash of its secret; None if it is unknown, expired or revoked."""
    row = (await conn.execute(_FIND, {"id": key_id})).one_or_none()
    return None if row is None else (_to_key(row), bytes(row.secret_hash))


async def has_valid_key(conn: Connection, *, role: Role) -> bool:
    """Return whether a key with this role exists that is neither expired nor revoked."""
    found: bool = await conn.scalar(_HAS_VALID, {"role": role})
    return found


async def note_uses(conn: Connection, uses: Mapping[str, datetime]) -> None:
    """Store the times of the last uses of keys, by id."""
    await conn.execute(_NOTE_USES, {"ids": list(uses), "times": list(uses.values())})


def _to_key(row: Row) -> ApiKey:
    return ApiKey(
        id=row.id,
        tenant=row.tenant,
        principal=row.principal,
        role=Role(row.role),
        scope=parse_scope(row.scope),
        created_by=row.created_by,
        create_time=row.create_time,
        expire_time=row.expire_time,
        last_use_time=row.last_use_time,
        revoke_time=row.revoke_time,
    )


_COLUMNS = (
    "id, tenant, principal, role, scope, created_by, create_time, expire_time, last_use_time, "
    "revoke_time"
)

_CREATE = text(f"""
    INSERT INTO api_keys (id, secret_hash, tenant, principal, role, scope, created_by, expire_time)
    VALUES (:id, :secret_hash, :tenant, :principal, :role, CAST(:scope AS text[]), :created_by,
        CAST(:expire_time AS timestamptz))
    ON CONFLICT (id) DO NOTHING
    RETURNING {_COLUMNS}
""")

_FIND_REPEATED = text(f"""
    SELECT {_COLUMNS} FROM api_keys
    WHERE id = :id AND secret_hash = :secret_hash AND revoke_time IS NULL
        AND create_time > clock_timestamp() - CAST(:window AS interval)
""")

_LIST = text(f"""
    SELECT {_COLUMNS} FROM api_keys WHERE tenant = :tenant AND id > :after ORDER BY id LIMIT :limit
""")

_REVOKE = text(f"""
    UPDATE api_keys SET revoke_time = coalesce(revoke_time, clock_timestamp())
    WHERE tenant = :tenant AND id = :id
    RETURNING {_COLUMNS}
""")

_FIND = text(f"""
    SELECT {_COLUMNS}, secret_hash FROM api_keys
    WHERE id = :id AND revoke_time IS NULL
        AND (expire_time IS NULL OR expire_time > clock_timestamp())
""")

_HAS_VALID = text("""
    SELECT EXISTS (
        SELECT FROM api_keys
        WHERE role = :role AND revoke_time IS NULL
            AND (expire_time IS NULL OR expire_time > clock_timestamp())
    )
""")

_NOTE_USES = text("""
    UPDATE api_keys k
    SET last_use_time = greatest(k.last_use_time, date_trunc('minute', u.time))
    FROM unnest(CAST(:ids AS text[]), CAST(:times AS timestamptz[])) AS u(id, time)
    WHERE k.id = u.id
""")

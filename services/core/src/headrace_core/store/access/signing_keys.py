"""The keys with which the installation signs its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import text

from headrace_core.domain.access import SIGNING_KEY_CHANGE
from headrace_core.domain.signing_key import MAX_TOKEN_LIFETIME, SigningKey, new_signing_key
from headrace_core.store.access.changes import record_change
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.installation import read_installation

# The time for which the tokens of a replaced key stay valid. Gateways cache the keys, so they may
# sign with a replaced key for another minute.
_KEEP: Final = MAX_TOKEN_LIFETIME + timedelta(minutes=5)

# Signing keys belong to all tenants.
_NO_TENANT: Final = ""

# The advisory lock for the creation of keys: the bytes of "signing".
_LOCK: Final = int.from_bytes(b"signing") >> 1


async def read_signing_keys(conn: Connection) -> Sequence[SigningKey]:
    """Return the keys whose tokens can be valid, the newest first."""
    return [
        SigningKey(
            id=row.id,
            seed=bytes(row.seed),
            create_time=row.create_time,
            expire_time=row.expire_time,
        )
        for row in await conn.execute(_READ, {})
    ]


async def ensure_signing_key(conn: Connection) -> None:
    """Create the first key in a transaction, unless there is a key that may sign."""
    await conn.execute(_LOCK_CREATION, {})
    if not await conn.scalar(_EXISTS, {}):
        await _create(conn)


async def rotate_signing_key(conn: Connection, *, revoke: bool = False) -> str:
    """Create a new key in a transaction, and return its id.

    The tokens of earlier keys stay valid until they expire.

    Args:
        conn: the transaction.
        revoke: whether to remove the earlier keys now, which makes their tokens invalid.
    """
    await conn.execute(_LOCK_CREATION, {})
    if revoke:
        for key_id in await conn.scalars(_DELETE_ALL, {}):
            await record_change(conn, tenant=_NO_TENANT, kind=SIGNING_KEY_CHANGE, subject=key_id)
    else:
        await conn.execute(_REPLACE, {"keep": _KEEP})
        await conn.execute(_DELETE_EXPIRED, {})
    return await _create(conn)


async def _create(conn: Connection) -> str:
    key_id, seed = new_signing_key((await read_installation(conn)).secret)
    await conn.execute(_CREATE, {"id": key_id, "seed": seed})
    return key_id


_LOCK_CREATION = text(f"SELECT pg_advisory_xact_lock({_LOCK})")

_READ = text("""
    SELECT id, seed, create_time, expire_time FROM signing_keys
    WHERE expire_time IS NULL OR expire_time > clock_timestamp()
    ORDER BY create_time DESC, id
""")

_EXISTS = text("SELECT true FROM signing_keys WHERE expire_time IS NULL LIMIT 1")

_CREATE = text("INSERT INTO signing_keys (id, seed) VALUES (:id, :seed)")

_REPLACE = text("""
    UPDATE signing_keys SET expire_time = clock_timestamp() + CAST(:keep AS interval)
    WHERE expire_time IS NULL
""")

_DELETE_ALL = text("DELETE FROM signing_keys RETURNING id")

_DELETE_EXPIRED = text("DELETE FROM signing_keys WHERE expire_time <= clock_timestamp()")

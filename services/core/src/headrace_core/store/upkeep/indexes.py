"""Indexes of large tables, which are built after the migrations so that writers do not wait.

`CREATE INDEX` blocks all writers of its table until the index is complete, and the migrations run
in one transaction, so the locks of all of them would last as long. `CONCURRENTLY` needs a session
outside a transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from sqlalchemy import text

from headrace_core.store.sql.connection import Connection

# The indexes by name, without the words before the table.
_INDEXES: Final[Mapping[str, str]] = {
    "jobs_delayed_idx": "jobs (tenant) WHERE state IN ('scheduled', 'retrying')",
}

# The advisory lock of a build. Its key is made from the bytes of "indexes".
_LOCK_KEY: Final = int.from_bytes(b"indexes") >> 1
# Seconds between two tries to lock.
_RETRY_S: Final = 0.5


async def build_indexes(conn: Connection) -> list[str]:
    """Build the missing indexes, and return their names. Concurrent calls wait for each other.

    Args:
        conn: a connection outside a transaction, without a time limit.
    """
    missing = await _missing(conn)
    if not missing:
        return []
    # A session that waits for a lock in the server has a snapshot, for which the build would wait.
    while not await conn.scalar(_TRY_LOCK, {}):  # noqa: ASYNC110 - other processes have the lock
        await asyncio.sleep(_RETRY_S)
    try:
        missing = await _missing(conn)
        for name in missing:
            # An interrupted build leaves an invalid index.
            await conn.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
            await conn.execute(text(f"CREATE INDEX CONCURRENTLY {name} ON {_INDEXES[name]}"))
    finally:
        await conn.scalar(_UNLOCK, {})
    return missing


async def _missing(conn: Connection) -> list[str]:
    valid = set(await conn.scalars(_VALID, {"names": list(_INDEXES)}))
    return [name for name in _INDEXES if name not in valid]


_TRY_LOCK = text(f"SELECT pg_try_advisory_lock({_LOCK_KEY})")

_UNLOCK = text(f"SELECT pg_advisory_unlock({_LOCK_KEY})")

_VALID = text("""
    SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE c.relname = ANY (CAST(:names AS text[])) AND i.indisvalid
        AND c.relnamespace = to_regnamespace(quote_ident(current_schema()))
""")

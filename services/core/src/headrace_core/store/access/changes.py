"""The log of changes of credentials and tenants. Gateways read it to update their caches."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import text

from headrace_core.domain.access import AccessChange
from headrace_core.domain.signing_key import MAX_TOKEN_LIFETIME
from headrace_core.store.sql.connection import Connection, Row

# The size of a page. A gateway that missed more changes empties its cache.
MAX_CHANGES: Final = 1000

# The maximum age of a change that can affect a valid token, with a margin for clock differences.
_RECENT_AGE: Final = MAX_TOKEN_LIFETIME + timedelta(minutes=15)


async def record_change(conn: Connection, *, tenant: str, kind: str, subject: str) -> None:
    """Record a change in its transaction; see AccessChange for the arguments.

    Other changes wait until this transaction commits.
    """
    await conn.execute(_RECORD, {"tenant": tenant, "kind": kind, "subject": subject})


async def read_version(conn: Connection) -> int:
    """Return the version of the newest change."""
    version: int = await conn.scalar(_VERSION, {})
    return version


async def read_changes(conn: Connection, *, after: int) -> Sequence[AccessChange] | None:
    """Return the changes after a version, in order.

    Returns:
        None if the changes do not fit on a page, or were removed: everything may have changed.
    """
    rows = await conn.execute(_CHANGES, {"after": after, "limit": MAX_CHANGES + 1})
    changes = [_to_change(row) for row in rows]
    if len(changes) > MAX_CHANGES or (changes and changes[0].version != after + 1):
        return None
    return changes


async def read_recent_changes(
    conn: Connection, *, limit: int
) -> tuple[int, Sequence[AccessChange]]:
    """Return the changes since the oldest valid token of the installation was issued.

    Args:
        conn: the connection.
        limit: the maximum number of changes; the newest ones are returned.

    Returns:
        The version after which no change is missing, and the changes in order.
    """
    version = await read_version(conn)
    rows = await conn.execute(_RECENT, {"age": _RECENT_AGE, "limit": limit})
    changes = [_to_change(row) for row in reversed(rows)]
    return (changes[0].version - 1 if changes else version), changes


def _to_change(row: Row) -> AccessChange:
    return AccessChange(version=row.version, tenant=row.tenant, kind=row.kind, subject=row.subject)


# Versions have no gaps: a failed transaction rolls its version back. Changes are rare, so each one
# removes the old ones here. Gateways read changes within seconds. A gateway that starts reads the
# changes that can affect a valid token.
_RECORD = text("""
    WITH next AS (
        UPDATE access_version SET version = version + 1 WHERE singleton RETURNING version
    ), pruned AS (
        DELETE FROM access_changes
        WHERE version < (SELECT version FROM next) - 10000
            AND time < clock_timestamp() - interval '2 hours'
    )
    INSERT INTO access_changes (version, tenant, kind, subject)
    SELECT version, :tenant, :kind, :subject FROM next
""")

_VERSION = text("SELECT version FROM access_version WHERE singleton")

_CHANGES = text("""
    SELECT version, tenant, kind, subject FROM access_changes
    WHERE version > :after ORDER BY version LIMIT :limit
""")

_RECENT = text("""
    SELECT version, tenant, kind, subject FROM access_changes
    WHERE time > clock_timestamp() - CAST(:age AS interval)
    ORDER BY version DESC LIMIT :limit
""")

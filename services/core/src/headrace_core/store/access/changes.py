"""The changes of credentials and tenants, which gateways follow to drop cached principals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import text

from headrace_core.domain.access import AccessChange
from headrace_core.store.sql.connection import Connection

# A gateway that missed more changes than one page drops its whole cache.
MAX_CHANGES: Final = 1000


async def record_change(conn: Connection, *, tenant: str, kind: str, subject: str) -> None:
    """Record a change in the transaction that makes it; see AccessChange for the arguments.

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
    changes = [
        AccessChange(version=row.version, tenant=row.tenant, kind=row.kind, subject=row.subject)
        for row in rows
    ]
    if len(changes) > MAX_CHANGES or (changes and changes[0].version != after + 1):
        return None
    return changes


# Versions have no gaps: a transaction that fails takes its version back. Old changes are removed
# here, because changes are rare; gateways read them within seconds.
_RECORD = text("""
    WITH next AS (
        UPDATE access_version SET version = version + 1 WHERE singleton RETURNING version
    ), pruned AS (
        DELETE FROM access_changes
        WHERE version < (SELECT version FROM next) - 10000
    )
    INSERT INTO access_changes (version, tenant, kind, subject)
    SELECT version, :tenant, :kind, :subject FROM next
""")

_VERSION = text("SELECT version FROM access_version WHERE singleton")

_CHANGES = text("""
    SELECT version, tenant, kind, subject FROM access_changes
    WHERE version > :after ORDER BY version LIMIT :limit
""")

"""The audit log. Triggers compute the chain and reject changes; see migration 0012."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import text

from headrace_core.domain.access import PrincipalKind
from headrace_core.domain.audit import AuditChain, AuditEntry, AuditEvent, AuditFilter
from headrace_core.store.leadership import CURRENT_TERM, check_term
from headrace_core.store.sql.connection import Connection, Row


async def record_audit(conn: Connection, *entries: AuditEntry) -> None:
    """Append events, in the order of the entries within each tenant.

    Other events of the same tenants wait until the transaction ends, so call this last. A
    transaction that calls it twice for different tenants can deadlock.
    """
    # All transactions lock tenants in one order, which prevents deadlocks.
    ordered = sorted(entries, key=lambda entry: entry.tenant)
    columns = {name: [getattr(entry, name) for entry in ordered] for name in _TYPES}
    await conn.execute(_APPEND, columns)


async def list_audit(
    conn: Connection, *, tenant: str, wanted: AuditFilter, before: int | None, limit: int
) -> Sequence[AuditEvent]:
    """Return events of a chain, newest first.

    Args:
        conn: a connection, with or without a transaction.
        tenant: the chain.
        wanted: selects the events.
        before: the number of the event before which the page starts; None for the newest.
        limit: the maximum number of events.
    """
    rows = await conn.execute(
        _LIST,
        {
            "tenant": tenant,
            "before": before,
            "start": wanted.start,
            "end": wanted.end,
            "principal": wanted.principal or None,
            "method": wanted.method or None,
            "only_denied": wanted.only_denied,
            "limit": limit,
        },
    )
    return [_to_event(row) for row in rows]


async def list_audit_chains(conn: Connection) -> Sequence[AuditChain]:
    """Return the bounds of all chains."""
    return [
        AuditChain(
            tenant=row.tenant,
            start_seq=row.start_seq,
            start_hash=bytes(row.start_hash),
            seq=row.seq,
            hash=bytes(row.hash),
        )
        for row in await conn.execute(_CHAINS, {})
    ]


async def read_audit_chain(
    conn: Connection, *, tenant: str, after: int, limit: int
) -> Sequence[AuditEvent]:
    """Return the events of a chain after the number `after`, oldest first, at most `limit`."""
    rows = await conn.execute(_READ, {"tenant": tenant, "after": after, "limit": limit})
    return [_to_event(row) for row in rows]


async def prune_audit(
    conn: Connection, *, term: int, tenant: str, older_than: timedelta, limit: int
) -> int:
    """Remove the oldest events of a chain, and keep the hash of the last removed one.

    Returns:
        The number of removed events.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    prune = {"term": term, "tenant": tenant, "older_than": older_than, "limit": limit}
    removed: int = check_term(term, await conn.execute(_PRUNE, prune)).one().removed
    return removed


async def read_reader_tenants(conn: Connection) -> frozenset[str]:
    """Return the tenants that record the reads of payloads."""
    return frozenset(await conn.scalars(_READER_TENANTS, {}))


async def set_payload_reads(conn: Connection, *, tenant: str, recorded: bool) -> None:
    """Set whether a tenant records the reads of payloads."""
    await conn.execute(_SET_PAYLOAD_READS, {"tenant": tenant, "recorded": recorded})


def _to_event(row: Row) -> AuditEvent:
    return AuditEvent(
        seq=row.seq,
        time=row.time,
        entry=AuditEntry(
            tenant=row.tenant,
            principal=row.principal,
            principal_tenant=row.principal_tenant,
            kind=PrincipalKind(row.kind),
            credential=row.credential,
            address=row.address,
            method=row.method,
            target=row.target,
            allowed=row.allowed,
            reason=row.reason,
            count=row.count,
        ),
        hash=bytes(row.hash),
    )


_TYPES: Final = {
    "tenant": "text",
    "principal": "text",
    "principal_tenant": "text",
    "kind": "text",
    "credential": "text",
    "address": "text",
    "method": "text",
    "target": "text",
    "allowed": "boolean",
    "reason": "text",
    "count": "integer",
}
# The columns that a writer sets; a trigger sets the others.
AUDIT_COLUMNS: Final = tuple(_TYPES)
_NAMES: Final = ", ".join(AUDIT_COLUMNS)
_ARRAYS: Final = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in _TYPES.items())

# The trigger sets the other columns, row by row in this order.
_APPEND = text(f"""
    INSERT INTO audit_log ({_NAMES})
    SELECT {_NAMES} FROM unnest({_ARRAYS}) WITH ORDINALITY AS t ({_NAMES}, number) ORDER BY number
""")

_COLUMNS: Final = f"seq, time, hash, {_NAMES}"

# Times never decrease within a chain, so bounds on times become bounds on `seq`.
_LIST = text(f"""
    SELECT {_COLUMNS} FROM audit_log
    WHERE tenant = :tenant
        AND seq < coalesce(CAST(:before AS bigint), {2**63 - 1})
        AND (CAST(:end AS timestamptz) IS NULL OR seq <= coalesce((
            SELECT seq FROM audit_log WHERE tenant = :tenant AND time < :end
            ORDER BY time DESC, seq DESC LIMIT 1
        ), 0))
        AND (CAST(:start AS timestamptz) IS NULL OR seq >= coalesce((
            SELECT seq FROM audit_log WHERE tenant = :tenant AND time >= :start
            ORDER BY time, seq LIMIT 1
        ), {2**63 - 1}))
        AND (CAST(:principal AS text) IS NULL OR principal = :principal)
        AND (CAST(:method AS text) IS NULL OR method = :method
            OR (right(:method, 1) = '/' AND starts_with(method, :method)))
        AND (NOT CAST(:only_denied AS boolean) OR NOT allowed)
    ORDER BY seq DESC LIMIT :limit
""")

_CHAINS = text("""
    SELECT tenant, start_seq, start_hash, seq, hash FROM audit_chains ORDER BY tenant
""")

_READ = text(f"""
    SELECT {_COLUMNS} FROM audit_log WHERE tenant = :tenant AND seq > :after
    ORDER BY seq LIMIT :limit
""")

_PRUNE = text(f"""
    WITH {CURRENT_TERM}
    SELECT prune_audit(
        :tenant, clock_timestamp() - CAST(:older_than AS interval), CAST(:limit AS integer)
    ) AS removed
    FROM current_term
""")

_READER_TENANTS = text("SELECT name FROM tenants WHERE audit_payload_reads")

_SET_PAYLOAD_READS = text("""
    UPDATE tenants SET audit_payload_reads = :recorded WHERE name = :tenant
""")

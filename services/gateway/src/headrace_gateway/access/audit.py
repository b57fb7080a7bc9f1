"""Audit events of use cases, in the transactions of their changes."""

from __future__ import annotations

from headrace_core.domain.access import Principal
from headrace_core.domain.audit import AuditEntry
from headrace_core.store.access import audit as store
from headrace_core.store.sql.connection import Connection
from headrace_gateway.calls.call import Call


async def record_audit(
    conn: Connection,
    call: Call,
    *,
    target: str,
    principal: Principal | None = None,
    reason: str = "",
) -> None:
    """Record a call in the transaction of its change.

    Other changes of the tenant wait until the transaction ends, so call this last, after
    `record_change`.

    Args:
        conn: a connection, in a transaction.
        call: the call.
        target: the object of the change, such as `api key 7hq2`; never a secret.
        principal: the principal to record if the call has none, such as the user who logs in.
        reason: the reason why the call was denied; empty if it was allowed.
    """
    entry = AuditEntry.by(
        principal or call.principal,
        tenant=call.tenant if principal is None else principal.tenant,
        address=call.address,
        method=call.method,
        target=target,
        allowed=not reason,
        reason=reason,
    )
    await store.record_audit(conn, entry)

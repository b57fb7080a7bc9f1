"""The writer of audit events in the background: denied calls and reads of payloads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import structlog

from headrace_core.domain.access import PrincipalKind
from headrace_core.domain.audit import INSTALLATION_CHAIN, AuditEntry
from headrace_core.domain.errors import LoginRejected, PermissionDenied, Unauthenticated
from headrace_core.runtime.loop import Loop, Wake
from headrace_core.store.access.audit import record_audit
from headrace_core.store.sql.database import Database
from headrace_gateway.calls.call import Call
from headrace_gateway.calls.exchange import short_name

_log = structlog.get_logger()

# The maximum number of distinct events in memory. Equal events share one entry with a count.
_MAX_PENDING: Final = 1000
# The maximum number of events in one write whose callers have no principal. Further such callers
# share one event, so an attacker cannot fill the log.
_MAX_UNAUTHENTICATED: Final = 10
# Seconds between two writes, and between two runs while no event arrives.
_PAUSE: Final = 0.5
_IDLE: Final = 60.0
# The fields of requests that name the object of the call.
_TARGET_FIELDS: Final = {
    "job_id": "job",
    "username": "user",
    "id": "id",
    "name": "name",
    "principal": "principal",
}


class AuditWriter(Loop):
    """Records denied calls and reads of payloads, within a second and without delaying the calls.

    Args:
        database: the store.

    Attributes:
        wake: starts the next run of the loop.
        readers: the tenants that record the reads of payloads.
        dropped: the number of events lost because `_MAX_PENDING` events were in memory.
    """

    name = "audit"
    pause = _PAUSE

    def __init__(self, *, database: Database) -> None:
        self._database = database
        self.wake = Wake()
        self.readers: frozenset[str] = frozenset()
        self.dropped = 0
        self._pending: dict[AuditEntry, int] = {}
        self._unauthenticated = 0
        self._reported = 0

    def note_denied(
        self, path: str, error: Exception, *, call: Call | None, address: str, request: Any
    ) -> None:
        """Record a denied call; ignore errors of other kinds.

        Args:
            path: the path of the method.
            error: the error that ended the call.
            call: the call; None if its principal is unknown.
            address: the network address of the caller.
            request: the message; None if it was not decoded.
        """
        match error:
            case PermissionDenied():
                reason = error.right or "the tenant is not active"
            case LoginRejected():
                reason = str(error)
            case Unauthenticated() if type(error) is Unauthenticated:
                reason = str(error).partition(";")[0]
            case _:
                return
        target = _target_of(request)
        if call is None or (call.principal.kind is PrincipalKind.ANONYMOUS):
            self._note(
                AuditEntry(
                    tenant=INSTALLATION_CHAIN,
                    address=address,
                    method=short_name(path),
                    target=target,
                    allowed=False,
                    reason=reason,
                )
            )
        else:
            self._note(
                AuditEntry.by(
                    call.principal,
                    tenant=call.tenant,
                    address=call.address,
                    method=call.method,
                    target=target,
                    allowed=False,
                    reason=reason,
                )
            )

    def note_read(self, call: Call, target: str) -> None:
        """Record that a call reads payloads."""
        self._note(
            AuditEntry.by(
                call.principal,
                tenant=call.tenant,
                address=call.address,
                method=call.method,
                target=target,
            )
        )

    async def run_once(self) -> float:
        """Write the waiting events.

        Returns:
            Seconds until the next run if no event arrives.

        Raises:
            Unavailable: PostgreSQL did not answer. The events stay in memory.
        """
        if self._pending:
            written, self._pending = self._pending, {}
            self._unauthenticated = 0
            try:
                async with self._database.transaction() as conn:
                    await record_audit(
                        conn, *(replace(entry, count=count) for entry, count in written.items())
                    )
            except BaseException:
                newer, self._pending = self._pending, written
                for entry, count in newer.items():
                    self._add(entry, count)
                raise
        if self.dropped > self._reported:
            _log.warning("audit_events_dropped", events=self.dropped - self._reported)
            self._reported = self.dropped
        return _IDLE

    def _note(self, entry: AuditEntry) -> None:
        if not entry.principal and entry not in self._pending:
            if self._unauthenticated >= _MAX_UNAUTHENTICATED:
                entry = replace(entry, address="others", target="", reason="several")
            self._unauthenticated += 1
        self._add(entry, 1)
        self.wake.set()

    def _add(self, entry: AuditEntry, count: int) -> None:
        waiting = self._pending.get(entry)
        if waiting is None and len(self._pending) >= _MAX_PENDING:
            self.dropped += count
        else:
            self._pending[entry] = (waiting or 0) + count


def _target_of(request: Any) -> str:
    """Return the object that a request names; empty if the request was not decoded."""
    fields = getattr(getattr(request, "DESCRIPTOR", None), "fields_by_name", ())
    found = [
        f"{kind} {value}"
        for name, kind in _TARGET_FIELDS.items()
        if name in fields and isinstance(value := getattr(request, name), str) and value
    ]
    if found and "tenant" in fields and request.tenant:
        found[0] += f" of tenant {request.tenant}"
    return found[0] if found else ""

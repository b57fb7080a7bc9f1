"""AuditService: each method converts its request and the result of its use case."""

# ruff: noqa: N802 - the methods have the names of the contract

from __future__ import annotations

from headrace.v1 import audit_service_pb2 as messages
from headrace_core.domain.audit import AuditEvent, AuditFilter
from headrace_gateway.api.audit import AuditLog
from headrace_gateway.api.validation import Violations
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.access import KINDS
from headrace_gateway.grpc.decode import read_time
from headrace_gateway.grpc.encode import timestamp
from headrace_gateway.grpc.pages import MessagePage


class AuditServicer:
    """Serves the audit log.

    Args:
        audit: the use cases.
    """

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    async def ListAuditEvents(
        self, request: messages.ListAuditEventsRequest, call: Call
    ) -> messages.ListAuditEventsResponse:
        """List events, newest first."""
        found = Violations()
        start, end = (
            read_time(getattr(request, name), name, found) if request.HasField(name) else None
            for name in ("start_time", "end_time")
        )
        page = MessagePage(_event_message)
        token = await self._audit.list(
            call,
            page,
            wanted=AuditFilter(
                start=start,
                end=end,
                principal=request.principal,
                method=request.method,
                only_denied=request.only_denied,
            ),
            installation=request.installation,
            size=request.page_size,
            token=request.page_token,
            violations=found,
        )
        return messages.ListAuditEventsResponse(events=page.messages, next_page_token=token)

    async def GetAuditSettings(
        self,
        _request: messages.GetAuditSettingsRequest,
        call: Call,
    ) -> messages.GetAuditSettingsResponse:
        """Return the settings of the tenant."""
        recorded = await self._audit.records_payload_reads(call)
        return messages.GetAuditSettingsResponse(
            settings=messages.AuditSettings(payload_reads=recorded)
        )

    async def UpdateAuditSettings(
        self, request: messages.UpdateAuditSettingsRequest, call: Call
    ) -> messages.UpdateAuditSettingsResponse:
        """Change the settings of the tenant."""
        found = Violations()
        if not request.HasField("settings"):
            found.note("settings", "is required")
        found.check()
        await self._audit.set_payload_reads(call, recorded=request.settings.payload_reads)
        return messages.UpdateAuditSettingsResponse(settings=request.settings)


def _event_message(event: AuditEvent) -> messages.AuditEvent:
    entry = event.entry
    return messages.AuditEvent(
        seq=event.seq,
        event_time=timestamp(event.time),
        principal=entry.principal,
        principal_tenant=entry.principal_tenant,
        kind=KINDS[entry.kind],
        credential=entry.credential,
        address=entry.address,
        method=entry.method,
        target=entry.target,
        denied=not entry.allowed,
        reason=entry.reason,
        count=entry.count,
        hash=event.hash,
    )

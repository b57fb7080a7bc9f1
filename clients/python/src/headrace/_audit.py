"""The client's calls for the audit log."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime

from headrace._calls import Calls
from headrace._convert import from_audit_event, to_timestamp
from headrace.audit import AuditEvent
from headrace.v1 import audit_service_pb2


class AuditCalls:
    """The client's calls for the audit log of its tenant."""

    _calls: Calls

    async def audit_events(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        principal: str = "",
        method: str = "",
        only_denied: bool = False,
        installation: bool = False,
        page_size: int = 0,
    ) -> AsyncGenerator[AuditEvent, None]:
        """Yield the events of the audit log, newest first, page by page.

        Args:
            since: only events at or after this time.
            until: only events before this time.
            principal: only the actions of this principal.
            method: only this method, such as `AccessService/CreateApiKey`, or the methods of a
                service, such as `AccessService/`.
            only_denied: only denied actions.
            installation: whether to return the actions without a tenant, such as calls with an
                invalid credential, instead of the tenant's. Requires the right `tenants:manage`.
            page_size: maximum number of events on a page; 0 for the server default.

        Raises:
            ValueError: a time has no time zone.
        """
        request = audit_service_pb2.ListAuditEventsRequest(
            page_size=page_size,
            start_time=to_timestamp(since, "since"),
            end_time=to_timestamp(until, "until"),
            principal=principal,
            method=method,
            only_denied=only_denied,
            installation=installation,
        )
        while True:
            page = await self._calls.unary(lambda gateway: gateway.audit.ListAuditEvents, request)
            for message in page.events:
                yield from_audit_event(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def records_payload_reads(self) -> bool:
        """Return whether the audit log records calls that read payloads."""
        request = audit_service_pb2.GetAuditSettingsRequest()
        response = await self._calls.unary(lambda gateway: gateway.audit.GetAuditSettings, request)
        return response.settings.payload_reads

    async def record_payload_reads(self, recorded: bool) -> None:
        """Set whether the audit log records calls that read payloads."""
        request = audit_service_pb2.UpdateAuditSettingsRequest(
            settings=audit_service_pb2.AuditSettings(payload_reads=recorded)
        )
        await self._calls.unary(lambda gateway: gateway.audit.UpdateAuditSettings, request)

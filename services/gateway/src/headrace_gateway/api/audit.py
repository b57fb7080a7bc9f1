"""The use cases of the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from headrace_core.domain.access import TENANT_CHANGE, Right
from headrace_core.domain.audit import INSTALLATION_CHAIN, AuditEvent, AuditFilter
from headrace_core.domain.errors import PageTokenInvalid, PermissionDenied, Violation
from headrace_core.store.access.audit import list_audit, read_reader_tenants, set_payload_reads
from headrace_core.store.access.changes import record_change
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.access.audit import record_audit
from headrace_gateway.api.pages import Page, fill_page, split_page
from headrace_gateway.api.validation import Violations, page_limit
from headrace_gateway.calls.call import Call
from headrace_gateway.tokens import decode_name_token, encode_name_token

_log = structlog.get_logger()

# The maximum number of events that one statement reads.
_MAX_EVENTS_READ: Final = 200


class AuditLog:
    """The use cases of the audit log.

    Args:
        database: the store.
        installation: signs page tokens.
        bus: wakes the gateways after a change of the settings.
    """

    def __init__(self, *, database: Database, installation: Installation, bus: WakeBus) -> None:
        self._database = database
        self._installation = installation
        self._bus = bus

    async def list(
        self,
        call: Call,
        page: Page[AuditEvent],
        *,
        wanted: AuditFilter,
        installation: bool = False,
        size: int = 0,
        token: str = "",
        violations: Sequence[Violation] = (),
    ) -> str:
        """Fill a page with the events of the tenant, newest first.

        Args:
            call: the call.
            page: receives the events.
            wanted: selects the events.
            installation: whether to return the events of calls without a tenant instead.
            size: the maximum number of events on the page; 0 for the default.
            token: the token of the page; empty for the first one.
            violations: the violations that the transport found in the request.

        Returns:
            The token of the next page; empty after the last one.

        Raises:
            InvalidRequest: the size or the token is invalid.
            PermissionDenied: the scope of the caller excludes some jobs, or the caller requests
                events without a tenant but may not manage tenants.
        """
        found = Violations(violations)
        limit = page_limit(size, found)
        found.check()
        if not call.principal.scope.covers_all_jobs:
            raise PermissionDenied(f"{Right.AUDIT_READ} for all jobs")
        if installation:
            call.require(Right.TENANTS_MANAGE)
        tenant = INSTALLATION_CHAIN if installation else call.tenant
        kind = f"audit {tenant} {wanted}"
        before = _read_number(decode_name_token(self._installation, call.tenant, token, of=kind))

        async def read(before: int | None, count: int) -> tuple[Sequence[AuditEvent], bool]:
            events = await list_audit(
                conn, tenant=tenant, wanted=wanted, before=before, limit=count + 1
            )
            return split_page(events, count)

        async with self._database.statement() as conn:
            last = await fill_page(
                page,
                read,
                key=lambda event: event.seq,
                after=before,
                size=limit,
                step=_MAX_EVENTS_READ,
            )
        if last is None:
            return ""
        return encode_name_token(self._installation, call.tenant, str(last), of=kind)

    async def records_payload_reads(self, call: Call) -> bool:
        """Return whether the tenant records the reads of payloads."""
        async with self._database.statement() as conn:
            return call.tenant in await read_reader_tenants(conn)

    async def set_payload_reads(self, call: Call, *, recorded: bool) -> None:
        """Set whether the tenant records the reads of payloads.

        The streams of the tenant end with CredentialChanged, so the log records each stream when it
        resumes.
        """
        async with self._database.transaction() as conn:
            await set_payload_reads(conn, tenant=call.tenant, recorded=recorded)
            await record_change(conn, tenant=call.tenant, kind=TENANT_CHANGE, subject=call.tenant)
            await record_audit(
                conn, call, target=f"payload reads {'recorded' if recorded else 'not recorded'}"
            )
        self._bus.publish(Topic.ACCESS)
        _log.info("audit_settings_changed", payload_reads=recorded)


def _read_number(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        raise PageTokenInvalid
    return int(text)

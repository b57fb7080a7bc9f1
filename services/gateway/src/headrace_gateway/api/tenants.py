"""The use cases of tenants: create, suspend, resume and delete them, quotas and usage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog

from headrace_core.domain.access import Right, TenantState
from headrace_core.domain.errors import AccessNotFound, PermissionDenied, Violation
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.limits import NAME_RULE, is_name
from headrace_core.domain.tenant import MAX_QUOTA, NO_QUOTAS, Quotas, Tenant, Usage
from headrace_core.store.access.tenants import (
    create_tenant,
    get_tenant,
    list_tenants,
    request_deletion,
    resume_tenant,
    set_quotas,
    suspend_tenant,
)
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.store.usage import read_usage
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.access.audit import record_audit
from headrace_gateway.access.quotas import TenantQuotas
from headrace_gateway.api.pages import Page, fill_page, split_page
from headrace_gateway.api.validation import Violations, page_limit
from headrace_gateway.calls.call import Call
from headrace_gateway.tokens import decode_name_token, encode_name_token

_log = structlog.get_logger()

_KIND: Final = "tenant"
_LIST: Final = "tenants"


class CurrentUsage(NamedTuple):
    """The usage of a tenant, its limits, and its open streams at this gateway."""

    usage: Usage
    limits: Quotas
    open_streams: int


class Tenants:
    """The use cases of tenants.

    Methods report `violations`, which the transport found in the request, together with their own.

    Args:
        database: the store of the tenants.
        installation: signs page tokens.
        bus: wakes gateways and schedulers after each change.
        quotas: counts the streams of this gateway.
    """

    def __init__(
        self,
        *,
        database: Database,
        installation: Installation,
        bus: WakeBus,
        quotas: TenantQuotas,
    ) -> None:
        self._database = database
        self._installation = installation
        self._bus = bus
        self._quotas = quotas

    async def create(
        self,
        call: Call,
        name: str,
        *,
        quotas: Quotas = NO_QUOTAS,
        ceilings: Quotas = NO_QUOTAS,
        violations: Sequence[Violation] = (),
    ) -> Tenant:
        """Create a tenant.

        Raises:
            InvalidRequest: the name or a quota is invalid.
            AccessConflict: a tenant with this name exists.
        """
        found = Violations(violations)
        if not is_name(name):
            found.note("name", NAME_RULE)
        _check_numbers(quotas, "quotas", found)
        _check_numbers(ceilings, "ceilings", found)
        _check_ceilings(quotas, ceilings, found)
        found.check()
        _check_scope(call)
        async with self._database.transaction() as conn:
            tenant = await create_tenant(conn, name=name, quotas=quotas, ceilings=ceilings)
            await record_audit(conn, call, target=f"tenant {name}")
        self._bus.publish(Topic.ACCESS)
        _log.info("tenant_created", tenant=name)
        return tenant

    async def get(self, call: Call, name: str) -> Tenant:
        """Return a tenant; an empty name means the tenant of the call.

        Raises:
            AccessNotFound: the tenant does not exist, or the caller may see only its own tenant.
        """
        name = _target(call, name)
        async with self._database.statement() as conn:
            return await get_tenant(conn, name=name)

    async def list(self, call: Call, page: Page[Tenant], *, size: int = 0, token: str = "") -> str:
        """Fill a page with tenants, by name.

        Args:
            call: the call.
            page: receives the tenants.
            size: the maximum number of tenants on the page; 0 for the default.
            token: the token of the page; empty for the first one.

        Returns:
            The token of the next page; empty after the last one.

        Raises:
            InvalidRequest: the size or the token is invalid.
        """
        found = Violations()
        limit = page_limit(size, found)
        found.check()
        _check_scope(call)

        async def read(after: str, wanted: int) -> tuple[Sequence[Tenant], bool]:
            tenants = await list_tenants(conn, after=after, limit=wanted + 1)
            return split_page(tenants, wanted)

        after = decode_name_token(self._installation, call.tenant, token, of=_LIST)
        async with self._database.statement() as conn:
            last = await fill_page(
                page, read, key=lambda tenant: tenant.name, after=after, size=limit
            )
        return encode_name_token(self._installation, call.tenant, last, of=_LIST) if last else ""

    async def suspend(self, call: Call, name: str) -> Tenant:
        """Suspend a tenant.

        Raises:
            InvalidRequest: the caller belongs to this tenant.
            AccessNotFound: the tenant does not exist.
            TenantStateConflict: the tenant is being deleted.
        """
        _check_other(call, name, "suspend")
        async with self._database.transaction() as conn:
            tenant = await suspend_tenant(conn, name=name)
            await record_audit(conn, call, target=f"tenant {name}")
        self._bus.publish(Topic.ACCESS)
        _log.info("tenant_suspended", tenant=name)
        return tenant

    async def resume(self, call: Call, name: str) -> Tenant:
        """Resume a suspended tenant.

        Raises:
            AccessNotFound: the tenant does not exist.
            TenantStateConflict: the tenant is being deleted.
        """
        _check_scope(call)
        async with self._database.transaction() as conn:
            tenant = await resume_tenant(conn, name=name)
            await record_audit(conn, call, target=f"tenant {name}")
        self._bus.publish(Topic.ACCESS, Topic.JOBS)
        _log.info("tenant_resumed", tenant=name)
        return tenant

    async def delete(self, call: Call, name: str) -> Tenant:
        """Start the deletion of a tenant; see `suspend` for the errors."""
        found = Violations()
        if name == DEFAULT_TENANT:
            found.note("name", f"the tenant {DEFAULT_TENANT!r} cannot be deleted")
        found.check()
        _check_other(call, name, "delete")
        async with self._database.transaction() as conn:
            tenant = await request_deletion(conn, name=name)
            await record_audit(conn, call, target=f"tenant {name}")
        self._bus.publish(Topic.ACCESS)
        _log.info("tenant_deletion_requested", tenant=name)
        assert tenant.state is TenantState.DELETING
        return tenant

    async def set_quotas(
        self,
        call: Call,
        name: str,
        *,
        quotas: Quotas | None = None,
        ceilings: Quotas | None = None,
        violations: Sequence[Violation] = (),
    ) -> Tenant:
        """Replace the quotas or the ceilings of a tenant.

        Args:
            call: the call.
            name: the tenant; empty for the tenant of the call.
            quotas: the new quotas; None to keep them.
            ceilings: the new ceilings; None to keep them.
            violations: see the class.

        Raises:
            InvalidRequest: a quota is invalid or exceeds its ceiling.
            AccessNotFound: the tenant does not exist, or the caller may see only its own tenant.
            PermissionDenied: the caller may not set ceilings.
            TenantStateConflict: the tenant is being deleted.
        """
        found = Violations(violations)
        _check_numbers(quotas or {}, "quotas", found)
        _check_numbers(ceilings or {}, "ceilings", found)
        found.check()
        name = _target(call, name)
        if ceilings is not None:
            call.require(Right.TENANTS_MANAGE)
        async with self._database.transaction() as conn:
            tenant = await set_quotas(conn, name=name, quotas=quotas, ceilings=ceilings)
            if quotas is not None:
                # An error rolls the change back.
                _check_ceilings(quotas, tenant.ceilings, found)
                found.check()
            await record_audit(conn, call, target=f"tenant {name}")
        self._bus.publish(Topic.ACCESS)
        _log.info("quotas_set", tenant=name)
        return tenant

    async def usage(self, call: Call, name: str) -> CurrentUsage:
        """Return the usage of a tenant; an empty name means the tenant of the call.

        Raises:
            AccessNotFound: the tenant does not exist, or the caller may see only its own tenant.
        """
        name = _target(call, name)
        async with self._database.statement() as conn:
            tenant = await get_tenant(conn, name=name)
            usage = await read_usage(conn, tenant=name)
        return CurrentUsage(usage, tenant.effective, self._quotas.streams(name))


def _target(call: Call, name: str) -> str:
    """Return the tenant that a request names, or the tenant of the call."""
    if name and name != call.tenant and Right.TENANTS_MANAGE not in call.principal.rights:
        # The caller cannot learn which tenants exist.
        raise AccessNotFound(_KIND, name)
    _check_scope(call)
    return name or call.tenant


def _check_scope(call: Call) -> None:
    """Check that the caller's scope includes all jobs of the tenant."""
    if not call.principal.scope.covers_all_jobs:
        raise PermissionDenied("all jobs of the tenant")


def _check_other(call: Call, name: str, action: str) -> None:
    """Check that the caller does not belong to a tenant; otherwise it would lock itself out."""
    if name == call.principal.tenant:
        found = Violations()
        found.note("name", f"is the tenant of the caller; a caller cannot {action} its own tenant")
        found.check()
    _check_scope(call)


def _check_numbers(quotas: Quotas, path: str, found: Violations) -> None:
    for quota, limit in quotas.items():
        if not 0 <= limit <= MAX_QUOTA:
            found.note(f"{path}.{quota}", f"must be 0 to {MAX_QUOTA}")


def _check_ceilings(quotas: Quotas, ceilings: Quotas, found: Violations) -> None:
    for quota, limit in quotas.items():
        ceiling = ceilings.get(quota)
        if ceiling is not None and limit > ceiling:
            found.note(f"quotas.{quota}", f"is {limit}; the ceiling is {ceiling}")

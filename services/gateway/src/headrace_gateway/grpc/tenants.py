"""TenantService: each method converts its request and the result of its use case."""

# ruff: noqa: N802 - the methods have the names of the contract

from __future__ import annotations

from typing import Final

from headrace.v1 import tenant_service_pb2 as messages
from headrace_core.domain.access import TenantState
from headrace_core.domain.tenant import Quota, Quotas, Tenant
from headrace_gateway.api.tenants import Tenants
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.encode import timestamp
from headrace_gateway.grpc.pages import MessagePage

_STATES: Final = {
    state: messages.TenantState.Value(f"TENANT_STATE_{state.name}") for state in TenantState
}


class TenantServicer:
    """Manages tenants, their quotas and their usage.

    Args:
        tenants: the use cases.
    """

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    async def CreateTenant(
        self, request: messages.CreateTenantRequest, call: Call
    ) -> messages.CreateTenantResponse:
        """Create a tenant."""
        tenant = await self._tenants.create(
            call,
            request.name,
            quotas=_read_quotas(request.quotas),
            ceilings=_read_quotas(request.ceilings),
        )
        return messages.CreateTenantResponse(tenant=_tenant_message(tenant))

    async def GetTenant(
        self, request: messages.GetTenantRequest, call: Call
    ) -> messages.GetTenantResponse:
        """Return a tenant."""
        tenant = await self._tenants.get(call, request.name)
        return messages.GetTenantResponse(tenant=_tenant_message(tenant))

    async def ListTenants(
        self, request: messages.ListTenantsRequest, call: Call
    ) -> messages.ListTenantsResponse:
        """List tenants by name."""
        page = MessagePage(_tenant_message)
        token = await self._tenants.list(
            call, page, size=request.page_size, token=request.page_token
        )
        return messages.ListTenantsResponse(tenants=page.messages, next_page_token=token)

    async def SuspendTenant(
        self, request: messages.SuspendTenantRequest, call: Call
    ) -> messages.SuspendTenantResponse:
        """Suspend a tenant."""
        tenant = await self._tenants.suspend(call, request.name)
        return messages.SuspendTenantResponse(tenant=_tenant_message(tenant))

    async def ResumeTenant(
        self, request: messages.ResumeTenantRequest, call: Call
    ) -> messages.ResumeTenantResponse:
        """Resume a tenant."""
        tenant = await self._tenants.resume(call, request.name)
        return messages.ResumeTenantResponse(tenant=_tenant_message(tenant))

    async def DeleteTenant(
        self, request: messages.DeleteTenantRequest, call: Call
    ) -> messages.DeleteTenantResponse:
        """Start the deletion of a tenant."""
        tenant = await self._tenants.delete(call, request.name)
        return messages.DeleteTenantResponse(tenant=_tenant_message(tenant))

    async def SetQuotas(
        self, request: messages.SetQuotasRequest, call: Call
    ) -> messages.SetQuotasResponse:
        """Replace the quotas of a tenant."""
        tenant = await self._tenants.set_quotas(
            call,
            request.name,
            quotas=_read_quotas(request.quotas) if request.HasField("quotas") else None,
            ceilings=_read_quotas(request.ceilings) if request.HasField("ceilings") else None,
        )
        return messages.SetQuotasResponse(tenant=_tenant_message(tenant))

    async def GetUsage(
        self, request: messages.GetUsageRequest, call: Call
    ) -> messages.GetUsageResponse:
        """Return the usage of a tenant."""
        current = await self._tenants.usage(call, request.name)
        return messages.GetUsageResponse(
            limits=_quotas_message(current.limits),
            waiting_jobs=current.usage.waiting_jobs,
            running_jobs=current.usage.running_jobs,
            payload_bytes=current.usage.payload_bytes,
            jobs_today=current.usage.jobs_today,
            open_streams=current.open_streams,
        )


def _read_quotas(message: messages.Quotas) -> Quotas:
    return {quota: getattr(message, quota) for quota in Quota if message.HasField(quota.value)}


def _quotas_message(quotas: Quotas) -> messages.Quotas:
    return messages.Quotas(**{quota.value: limit for quota, limit in quotas.items()})


def _tenant_message(tenant: Tenant) -> messages.Tenant:
    deletion = None
    if tenant.deletion is not None:
        deletion = messages.TenantDeletion(
            request_time=timestamp(tenant.deletion.request_time),
            jobs=tenant.deletion.jobs,
            removed_jobs=tenant.deletion.removed_jobs,
        )
    return messages.Tenant(
        name=tenant.name,
        state=_STATES[tenant.state],
        create_time=timestamp(tenant.create_time),
        quotas=_quotas_message(tenant.quotas),
        ceilings=_quotas_message(tenant.ceilings),
        deletion=deletion,
    )

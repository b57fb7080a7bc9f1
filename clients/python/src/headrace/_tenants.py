"""The client's calls for tenants."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from headrace._calls import Calls
from headrace._convert import from_tenant, from_usage, to_quotas
from headrace.tenant import Quotas, Tenant, TenantUsage
from headrace.v1 import tenant_service_pb2


class TenantCalls:
    """The client's calls for tenants, their quotas and their usage.

    Only principals with the role PLATFORM can manage tenants. An admin can read its own tenant and
    set its quotas, up to the ceilings.
    """

    _calls: Calls

    async def create_tenant(
        self, name: str, *, quotas: Quotas | None = None, ceilings: Quotas | None = None
    ) -> Tenant:
        """Create a tenant.

        Args:
            name: 1 to 100 characters of a-z, 0-9, `.`, `_` and `-`; the first is a letter or a
                digit.
            quotas: the quotas; None for no limits.
            ceilings: the ceilings; None for no limits.

        Raises:
            AccessConflict: a tenant with this name already exists.
        """
        request = tenant_service_pb2.CreateTenantRequest(
            name=name, quotas=to_quotas(quotas), ceilings=to_quotas(ceilings)
        )
        response = await self._calls.unary(lambda gateway: gateway.tenants.CreateTenant, request)
        return from_tenant(response.tenant)

    async def tenant(self, name: str = "") -> Tenant:
        """Return a tenant; without a name, the tenant of this client.

        Raises:
            AccessNotFound: the tenant does not exist, or the caller may read only its own tenant.
        """
        request = tenant_service_pb2.GetTenantRequest(name=name)
        response = await self._calls.unary(lambda gateway: gateway.tenants.GetTenant, request)
        return from_tenant(response.tenant)

    async def tenants(self) -> AsyncGenerator[Tenant, None]:
        """Yield all tenants in name order."""
        request = tenant_service_pb2.ListTenantsRequest()
        while True:
            page = await self._calls.unary(lambda gateway: gateway.tenants.ListTenants, request)
            for message in page.tenants:
                yield from_tenant(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def suspend_tenant(self, name: str) -> Tenant:
        """Suspend a tenant: its calls are rejected, its streams end, and none of its jobs starts.

        Raises:
            AccessNotFound: the tenant does not exist.
            StateConflict: the tenant is being deleted.
        """
        request = tenant_service_pb2.SuspendTenantRequest(name=name)
        response = await self._calls.unary(lambda gateway: gateway.tenants.SuspendTenant, request)
        return from_tenant(response.tenant)

    async def resume_tenant(self, name: str) -> Tenant:
        """Resume a suspended tenant; see `suspend_tenant` for the errors."""
        request = tenant_service_pb2.ResumeTenantRequest(name=name)
        response = await self._calls.unary(lambda gateway: gateway.tenants.ResumeTenant, request)
        return from_tenant(response.tenant)

    async def delete_tenant(self, name: str) -> Tenant:
        """Start the deletion of a tenant with all its rows. A deletion cannot be stopped.

        `tenant` returns the progress, and raises AccessNotFound when the deletion is complete.

        Raises:
            AccessNotFound: the tenant does not exist.
        """
        request = tenant_service_pb2.DeleteTenantRequest(name=name)
        response = await self._calls.unary(lambda gateway: gateway.tenants.DeleteTenant, request)
        return from_tenant(response.tenant)

    async def set_quotas(
        self, name: str = "", *, quotas: Quotas | None = None, ceilings: Quotas | None = None
    ) -> Tenant:
        """Replace the quotas or the ceilings of a tenant; without a name, of this client's tenant.

        Args:
            name: the tenant; empty for the tenant of this client.
            quotas: the new quotas, at most the ceilings; a field that is None removes its quota.
                None keeps all quotas.
            ceilings: the new ceilings, which only the platform may set. None keeps all ceilings.

        Raises:
            AccessNotFound: the tenant does not exist, or the caller may change only its own tenant.
            StateConflict: the tenant is being deleted.
        """
        request = tenant_service_pb2.SetQuotasRequest(
            name=name, quotas=to_quotas(quotas), ceilings=to_quotas(ceilings)
        )
        response = await self._calls.unary(lambda gateway: gateway.tenants.SetQuotas, request)
        return from_tenant(response.tenant)

    async def usage(self, name: str = "") -> TenantUsage:
        """Return the usage of a tenant; without a name, of this client's tenant.

        Raises:
            AccessNotFound: the tenant does not exist, or the caller may read only its own tenant.
        """
        request = tenant_service_pb2.GetUsageRequest(name=name)
        response = await self._calls.unary(lambda gateway: gateway.tenants.GetUsage, request)
        return from_usage(response)

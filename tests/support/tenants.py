"""Tenants written directly to the store, and submits within their quotas."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_core.domain.errors import QuotaExceeded, RequestIdConflict
from headrace_core.domain.job import DEFAULT_TENANT, Job
from headrace_core.domain.submission import NewJob
from headrace_core.domain.tenant import Quota, Quotas, Tenant
from headrace_core.store.access.tenants import set_quotas
from headrace_core.store.jobs.submit_metered import submit_metered_jobs
from headrace_core.store.sql.database import Database


async def limit_tenant(database: Database, tenant: str = DEFAULT_TENANT, **quotas: int) -> Tenant:
    """Set quotas of a tenant; the arguments are their names and limits."""
    named: Quotas = {Quota(name): limit for name, limit in quotas.items()}
    async with database.transaction() as conn:
        return await set_quotas(conn, name=tenant, quotas=named, ceilings=None)


async def submit_metered(
    database: Database, tenant: Tenant, jobs: Sequence[NewJob]
) -> list[Job | RequestIdConflict | QuotaExceeded]:
    """Submit jobs within the quotas of a tenant."""
    async with database.transaction() as conn:
        return await submit_metered_jobs(conn, jobs, quotas=tenant.effective)

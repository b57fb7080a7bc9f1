"""The tenant loops: deletion with progress, and the usage meter."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import text

from headrace_core.domain.access import TenantState
from headrace_core.domain.errors import AccessNotFound, StaleTerm
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.tenant import Quota, Tenant
from headrace_core.store.access.tenants import create_tenant, get_tenant, request_deletion
from headrace_core.store.sql.database import Database
from headrace_core.wake import WakeBus
from headrace_scheduler.loops.delete_tenants import DeleteTenants
from headrace_scheduler.loops.meter import Meter
from headrace_scheduler.metrics import Gauges, TenantUsage
from headrace_scheduler.timing import DEFAULT
from support.jobs import new_job, submit, submit_many
from support.leading import lead, lose_lead
from support.tenants import limit_tenant, submit_metered
from support.workers import attempt_end, register, start, write_ends

AT_ONCE = replace(DEFAULT, deletion_settled=0.0, prune_rest=0.0)


async def deletion_loop(
    database: Database, bus: WakeBus, *, gauges: Gauges | None = None, patience: float = 60.0
) -> DeleteTenants:
    return DeleteTenants(
        database=database,
        bus=bus,
        term=await lead(database),
        gauges=gauges or Gauges(),
        timing=replace(AT_ONCE, deletion_patience=patience),
        page=2,
    )


async def delete(database: Database, name: str = "acme") -> None:
    async with database.transaction() as conn:
        await request_deletion(conn, name=name)


async def read(database: Database, name: str = "acme") -> Tenant:
    async with database.statement() as conn:
        return await get_tenant(conn, name=name)


async def create(database: Database, name: str = "acme") -> None:
    async with database.transaction() as conn:
        await create_tenant(conn, name=name)


async def test_tenant_is_deleted_in_pages(database: Database, bus: WakeBus) -> None:
    await create(database)
    await submit_many(database, 5, tenant="acme")
    kept = await submit(database)
    gauges = Gauges()
    loop = await deletion_loop(database, bus, gauges=gauges)
    assert await loop.run_once() == AT_ONCE.tenants
    await delete(database)
    assert await loop.run_once() == AT_ONCE.tenants
    assert gauges.deleted == 5
    with pytest.raises(AccessNotFound):
        await read(database)
    async with database.statement() as conn:
        assert await conn.scalars(text("SELECT id FROM jobs")) == [kept.id]
        assert await conn.scalars(text("SELECT DISTINCT tenant FROM job_events")) == ["default"]
    # The name can be used again.
    await create(database)


async def test_deletion_cancels_running_jobs_first(database: Database, bus: WakeBus) -> None:
    await create(database)
    worker = await register(database, tenant="acme")
    running, _ = await submit_many(database, 2, tenant="acme")
    await start(database, worker, running)
    await delete(database)
    loop = await deletion_loop(database, bus)
    assert await loop.run_once() == AT_ONCE.deletion
    tenant = await read(database)
    assert tenant.state is TenantState.DELETING
    assert tenant.deletion is not None
    assert (tenant.deletion.jobs, tenant.deletion.removed_jobs) == (2, 1)
    async with database.statement() as conn:
        assert await conn.scalar(
            text("SELECT count(*) FROM jobs WHERE cancel_request_time IS NOT NULL")
        )
    await write_ends(database, worker, attempt_end(running.id, 1, EventType.CANCELLED))
    # The next leader continues the deletion.
    assert await (await deletion_loop(database, bus)).run_once() == AT_ONCE.tenants


async def test_job_that_ignores_cancellation_is_removed(database: Database, bus: WakeBus) -> None:
    await create(database)
    worker = await register(database, tenant="acme")
    running = await submit(database, tenant="acme")
    await start(database, worker, running)
    await delete(database)
    assert await (await deletion_loop(database, bus, patience=0.0)).run_once() == AT_ONCE.tenants
    # The write of its worker is refused.
    assert not await write_ends(database, worker, attempt_end(running.id, 1, EventType.SUCCEEDED))


async def test_deletion_stops_at_the_end_of_the_term(database: Database, bus: WakeBus) -> None:
    await create(database)
    await submit(database, tenant="acme")
    await delete(database)
    loop = await deletion_loop(database, bus)
    await lose_lead(database)
    with pytest.raises(StaleTerm):
        await loop.run_once()
    async with database.statement() as conn:
        assert await conn.scalar(text("SELECT count(*) FROM jobs")) == 1


async def test_meter_reports_usage_and_counts_payloads(database: Database) -> None:
    await submit(database, payload='"12345678"')
    tenant = await limit_tenant(database, waiting_jobs=5, payload_bytes=100, open_streams=1)
    await submit_metered(database, tenant, [new_job(payload='"12345678"')])
    gauges = Gauges()
    meter = Meter(database=database, term=await lead(database), gauges=gauges)
    await meter.run_once()
    assert gauges.usage == (
        TenantUsage("default", Quota.WAITING_JOBS, used=2, limit=5),
        TenantUsage("default", Quota.PAYLOAD_BYTES, used=10, limit=100),
    )
    async with database.statement() as conn:
        await conn.execute(text("UPDATE tenant_usage SET recount_time = now()"))
    await meter.run_once()
    assert TenantUsage("default", Quota.PAYLOAD_BYTES, used=20, limit=100) in gauges.usage


async def test_meter_without_quotas_reports_nothing(database: Database) -> None:
    gauges = Gauges()
    await Meter(database=database, term=await lead(database), gauges=gauges).run_once()
    assert gauges.usage == ()

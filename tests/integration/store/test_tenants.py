"""Suspended tenants, the deletion of tenants, and workers that serve several tenants."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from headrace_core.domain.access import TenantState
from headrace_core.domain.errors import AccessConflict, AccessNotFound, TenantStateConflict
from headrace_core.domain.ids import BatchId, uuid7
from headrace_core.domain.job import Job
from headrace_core.domain.tenant import Quota
from headrace_core.store.access.deletion import (
    KEPT_TABLES,
    REMOVED_TABLES,
    deleting_tenants,
    finish_deletion,
    remove_tenant_jobs,
    remove_tenant_rows,
)
from headrace_core.store.access.tenants import (
    create_tenant,
    get_tenant,
    request_deletion,
    resume_tenant,
    set_quotas,
    suspend_tenant,
)
from headrace_core.store.jobs.waiting import live_pools, ready_jobs
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.tables import metadata
from headrace_core.store.workers import live_handlers
from support.jobs import submit, submit_many
from support.leading import lead
from support.workers import claim, delivery, register


async def create(database: Database, name: str = "acme") -> None:
    async with database.transaction() as conn:
        await create_tenant(conn, name=name)


async def suspend(database: Database, name: str = "acme") -> None:
    async with database.transaction() as conn:
        await suspend_tenant(conn, name=name)


async def resume(database: Database, name: str = "acme") -> None:
    async with database.transaction() as conn:
        await resume_tenant(conn, name=name)


async def delete(database: Database, name: str = "acme") -> None:
    async with database.transaction() as conn:
        await request_deletion(conn, name=name)


async def ready(database: Database, pool: str = "pool") -> set[object]:
    async with database.statement() as conn:
        return {job.key.job_id for job in await ready_jobs(conn, pools=[pool], limit=100)}


# States.


async def test_tenant_names_are_unique(database: Database) -> None:
    await create(database)
    with pytest.raises(AccessConflict):
        await create(database)
    async with database.statement() as conn:
        with pytest.raises(AccessNotFound):
            await get_tenant(conn, name="other")


async def test_tenant_in_deletion_cannot_change(database: Database) -> None:
    await create(database)
    await delete(database)
    await delete(database)
    for change in (suspend, resume):
        with pytest.raises(TenantStateConflict):
            await change(database)
    with pytest.raises(TenantStateConflict):
        async with database.transaction() as conn:
            await set_quotas(conn, name="acme", quotas={Quota.OPEN_STREAMS: 1}, ceilings=None)


async def test_jobs_of_suspended_tenant_do_not_start(database: Database) -> None:
    await create(database)
    worker = await register(database, tenant=["acme", "other"])
    waiting = await submit(database, tenant="acme")
    others = await submit(database, tenant="other")
    await suspend(database)
    assert await ready(database) == {others.id}
    # A delivery from before the suspension is not claimed.
    assert await claim(database, worker, [delivery(waiting)]) == []
    await resume(database)
    assert await ready(database) == {waiting.id, others.id}
    assert await claim(database, worker, [delivery(waiting)])


# Workers for several tenants.


@pytest.mark.parametrize(
    ("tenants", "served"),
    [
        (["acme"], {"acme"}),
        (["acme", "other"], {"acme", "other"}),
        ([], {"acme", "other", "third"}),
    ],
    ids=["one", "several", "all"],
)
async def test_worker_runs_only_jobs_of_its_tenants(
    database: Database, tenants: list[str], served: set[str]
) -> None:
    worker = await register(database, tenant=tenants)
    jobs = [await submit(database, tenant=name) for name in ("acme", "other", "third")]
    expected = {job.id for job in jobs if job.tenant in served}
    assert await ready(database) == expected
    claimed = await claim(database, worker, [delivery(job) for job in jobs])
    assert {job.key.job_id for job in claimed} == expected
    assert {job.tenant for job in claimed} == served
    async with database.statement() as conn:
        [pool] = await live_pools(conn)
        assert pool.tenants == frozenset(tenants)
        for name in ("acme", "other", "third"):
            handlers = await live_handlers(conn, tenant=name)
            assert [one.spec.type for one in handlers] == (["test"] if name in served else [])


async def test_worker_of_an_older_version_serves_its_tenant(database: Database) -> None:
    await register(database, tenant="acme")
    async with database.transaction() as conn:
        await conn.execute(text("UPDATE workers SET tenants = DEFAULT"))
    job = await submit(database, tenant="acme")
    await submit(database, tenant="other")
    assert await ready(database) == {job.id}


# Deletion.


async def fill(database: Database, name: str) -> list[Job]:
    """Write rows of a tenant to each table from which a deletion removes them."""
    jobs = await submit_many(database, 5, tenant=name)
    async with database.transaction() as conn:
        batch = BatchId(uuid7())
        await conn.execute(
            text("""
                INSERT INTO batches (id, tenant, request_id, fingerprint, jobs)
                VALUES (:id, :tenant, 'once', 'a', 1)
            """),
            {"id": batch, "tenant": name},
        )
        await conn.execute(
            text("UPDATE jobs SET batch_id = :batch WHERE id = :id"),
            {"batch": batch, "id": jobs[0].id},
        )
        await conn.execute(
            text("""
                INSERT INTO subscriptions (tenant, name, filter, xid, position)
                VALUES (:tenant, 'billing', '{}', '1', 1)
            """),
            {"tenant": name},
        )
        await conn.execute(
            text("""
                INSERT INTO job_logs (job_id, attempt, last_line, tenant, lines)
                SELECT id, 1, 1, tenant, '[]' FROM jobs WHERE tenant = :tenant
            """),
            {"tenant": name},
        )
        await conn.execute(
            text("""
                INSERT INTO api_keys (id, secret_hash, tenant, principal, role, scope, created_by)
                VALUES (:id, decode(repeat('00', 32), 'hex'), :tenant, 'ada', 'admin', '{}', 'ada')
            """),
            {"id": f"key of {name}", "tenant": name},
        )
        await conn.execute(
            text("""
                INSERT INTO certificate_bindings (san, tenant, principal, role, scope, created_by)
                VALUES (:san, :tenant, 'ada', 'admin', '{}', 'ada')
            """),
            {"san": f"DNS:{name}.example.com", "tenant": name},
        )
        await conn.execute(
            text("""
                INSERT INTO users (tenant, name, role, scope, password_hash, created_by)
                VALUES (:tenant, 'ada', 'admin', '{}', '$argon2id$', 'ada')
            """),
            {"tenant": name},
        )
        await conn.execute(
            text("""
                INSERT INTO sessions (id, tenant, username, token_hash, address, expire_time)
                VALUES (gen_random_uuid(), :tenant, 'ada', decode(repeat('00', 32), 'hex'), '',
                    now())
            """),
            {"tenant": name},
        )
    return jobs


async def count_rows(database: Database, name: str) -> dict[str, int]:
    counts = {}
    async with database.statement() as conn:
        for table in ("jobs", "job_events", "job_logs", *REMOVED_TABLES):
            counts[table] = await conn.scalar(
                text(f"SELECT count(*) FROM {table} WHERE tenant = :tenant"), {"tenant": name}
            )
    return counts


async def test_deletion_removes_only_rows_of_the_tenant(database: Database) -> None:
    await create(database)
    await create(database, "other")
    await fill(database, "acme")
    await fill(database, "other")
    remaining = await count_rows(database, "other")
    await delete(database)
    term = await lead(database)
    after = None
    removed = 0
    # Each transaction removes at most two jobs.
    while True:
        async with database.transaction() as conn:
            page = await remove_tenant_jobs(conn, term=term, tenant="acme", limit=2, after=after)
        if not page.jobs:
            break
        assert page.jobs <= 2
        removed, after = removed + page.jobs, page.last
    assert removed == 5
    async with database.statement() as conn:
        for table in REMOVED_TABLES:
            await remove_tenant_rows(conn, term=term, tenant="acme", table=table, limit=100)
        tenant = await get_tenant(conn, name="acme")
        assert tenant.state is TenantState.DELETING
        assert tenant.deletion is not None
        assert tenant.deletion.removed_jobs == 5
    assert set((await count_rows(database, "acme")).values()) == {0}
    assert await count_rows(database, "other") == remaining


async def test_tenant_stays_until_its_last_job_is_removed(database: Database) -> None:
    await create(database)
    worker = await register(database, tenant="acme")
    job = await submit(database, tenant="acme")
    await claim(database, worker, [delivery(job)])
    await delete(database)
    term = await lead(database)
    options = {"term": term, "tenant": "acme", "settled_after": timedelta()}
    async with database.transaction() as conn:
        assert (await remove_tenant_jobs(conn, term=term, tenant="acme", limit=10)).jobs == 0
    async with database.statement() as conn:
        assert not await finish_deletion(conn, **options)
    async with database.transaction() as conn:
        page = await remove_tenant_jobs(
            conn, term=term, tenant="acme", limit=10, include_running=True
        )
        assert page.jobs == 1
    async with database.statement() as conn:
        unsettled = {**options, "settled_after": timedelta(hours=1)}
        assert not await finish_deletion(conn, **unsettled)
        assert await finish_deletion(conn, **options)
        assert await deleting_tenants(conn) == []


def test_deletion_covers_every_table_with_a_tenant() -> None:
    with_tenant = {table.name for table in metadata.sorted_tables if "tenant" in table.columns}
    assert with_tenant == {*REMOVED_TABLES, *KEPT_TABLES}

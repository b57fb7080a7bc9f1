"""The audit log is a hash chain. Triggers protect it; after pruning it continues from an anchor."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy import text

from headrace_core.domain.access import Role
from headrace_core.domain.audit import (
    AuditChain,
    AuditEntry,
    AuditEvent,
    AuditFilter,
    ChainCheck,
)
from headrace_core.domain.errors import StaleTerm
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.store.access.audit import (
    list_audit,
    list_audit_chains,
    prune_audit,
    read_audit_chain,
    record_audit,
)
from headrace_core.store.access.bootstrap import bootstrap_key, bootstrap_user
from headrace_core.store.sql.database import Database
from support.leading import lead


def entry(number: int, tenant: str = "acme", **fields: object) -> AuditEntry:
    return AuditEntry(tenant=tenant, principal="ada", method=f"Service/M{number}", **fields)


async def append(database: Database, *entries: AuditEntry) -> None:
    async with database.transaction() as conn:
        await record_audit(conn, *entries)


async def chain(database: Database, tenant: str = "acme") -> AuditChain:
    async with database.statement() as conn:
        return {one.tenant: one for one in await list_audit_chains(conn)}[tenant]


async def read(database: Database, tenant: str = "acme") -> Sequence[AuditEvent]:
    async with database.statement() as conn:
        return await read_audit_chain(conn, tenant=tenant, after=0, limit=1000)


async def problems(database: Database, tenant: str = "acme") -> list[str]:
    """Return the breaches that a check of a chain finds."""
    check = ChainCheck(await chain(database, tenant))
    return [*check.check(await read(database, tenant)), *check.end()]


async def test_database_and_domain_compute_the_same_hashes(database: Database) -> None:
    await append(
        database,
        entry(1, target="api key \u00e4\U0001f600 x:1", credential="k", address="::1"),
        entry(2, allowed=False, reason="jobs:submit", count=3),
    )
    await append(database, entry(3))
    assert [event.seq for event in await read(database)] == [1, 2, 3]
    assert await problems(database) == []


async def test_each_tenant_has_its_own_chain(database: Database) -> None:
    await append(database, entry(1, "b"), entry(2, "a"), entry(3, "b"))
    assert [event.entry.method for event in await read(database, "b")] == [
        "Service/M1",
        "Service/M3",
    ]
    assert [event.seq for event in await read(database, "a")] == [1]
    assert await problems(database, "a") == await problems(database, "b") == []


async def test_concurrent_writers_append_to_one_chain(large_pool: Database) -> None:
    await asyncio.gather(
        *(append(large_pool, entry(number), entry(number)) for number in range(20))
    )
    events = await read(large_pool)
    assert [event.seq for event in events] == list(range(1, 41))
    assert [event.time for event in events] == sorted(event.time for event in events)
    assert await problems(large_pool) == []


async def test_rolled_back_event_leaves_no_gap(database: Database) -> None:
    await append(database, entry(1))
    async with database.transaction() as conn:
        await record_audit(conn, entry(2))
        await conn.rollback()
    await append(database, entry(3))
    assert [event.entry.method for event in await read(database)] == ["Service/M1", "Service/M3"]
    assert await problems(database) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET principal = 'eve'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "DELETE FROM audit_chains",
        "TRUNCATE audit_chains",
        "UPDATE audit_chains SET seq = 0",
        "UPDATE audit_chains SET hash = start_hash",
        "UPDATE audit_chains SET tenant = 'other'",
    ],
)
async def test_audit_log_rejects_changes(database: Database, statement: str) -> None:
    await append(database, entry(1), entry(2))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.statement() as conn:
            await conn.execute(text(statement))
    assert len(await read(database)) == 2


async def test_pruned_chain_continues_from_its_anchor(database: Database) -> None:
    await append(database, *(entry(number) for number in range(5)))
    term = await lead(database)
    async with database.statement() as conn:
        first = await prune_audit(conn, term=term, tenant="acme", older_than=timedelta(0), limit=3)
        pruned_recent = await prune_audit(
            conn, term=term, tenant="acme", older_than=timedelta(days=1), limit=3
        )
    assert (first, pruned_recent) == (3, 0)
    assert [event.seq for event in await read(database)] == [4, 5]
    assert (await chain(database)).start_seq == 3
    assert await problems(database) == []
    async with database.statement() as conn:
        assert (
            await prune_audit(conn, term=term, tenant="acme", older_than=timedelta(0), limit=3) == 2
        )
    await append(database, entry(6))
    assert [event.seq for event in await read(database)] == [6]
    assert await problems(database) == []


async def test_audit_prune_in_an_old_term_is_refused(database: Database) -> None:
    await append(database, entry(1))
    term = await lead(database)
    with pytest.raises(StaleTerm):
        async with database.statement() as conn:
            await prune_audit(conn, term=term + 1, tenant="acme", older_than=timedelta(0), limit=3)
    assert len(await read(database)) == 1


async def test_bootstrap_is_recorded(database: Database) -> None:
    async with database.transaction() as conn:
        await bootstrap_user(conn, tenant=DEFAULT_TENANT, name="ada", role=Role.ADMIN)
        await bootstrap_key(
            conn, tenant=DEFAULT_TENANT, principal="ci", role=Role.ADMIN, force=True
        )
    entries = [event.entry for event in await read(database, DEFAULT_TENANT)]
    assert [(one.principal, one.method) for one in entries] == [("command line", "bootstrap")] * 2
    assert entries[0].target == "user ada"
    assert entries[1].target.endswith(" of ci")


async def test_filters_select_events(database: Database) -> None:
    await append(database, entry(1), entry(2, allowed=False))
    await append(database, AuditEntry(tenant="acme", principal="bob", method="Other/M3"))
    times = [event.time for event in await read(database)]

    async def select(before: int | None = None, **fields: object) -> list[int]:
        async with database.statement() as conn:
            events = await list_audit(
                conn, tenant="acme", wanted=AuditFilter(**fields), before=before, limit=10
            )
        return [event.seq for event in events]

    assert await select() == [3, 2, 1]
    assert await select(before=3) == [2, 1]
    assert await select(principal="bob") == [3]
    assert await select(method="Service/M1") == [1]
    assert await select(method="Service/") == [2, 1]
    assert await select(method="Service") == []
    assert await select(only_denied=True) == [2]
    assert await select(start=times[2]) == [3]
    assert await select(end=times[2]) == [2, 1]
    assert await select(start=times[2] + timedelta(days=1)) == []
    assert await select(end=times[0] - timedelta(days=1)) == []

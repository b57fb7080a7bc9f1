"""Tenants, with their states and quotas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

import msgspec
from sqlalchemy import text

from headrace_core.domain.access import (
    QUOTAS_CHANGE,
    TENANT_CHANGE,
    TENANT_CREATION,
    TenantState,
)
from headrace_core.domain.errors import AccessConflict, AccessNotFound, TenantStateConflict
from headrace_core.domain.tenant import (
    COUNTED,
    NO_QUOTAS,
    Deletion,
    Quota,
    Quotas,
    Tenant,
    TenantRules,
    effective_quotas,
)
from headrace_core.store.access.changes import record_change
from headrace_core.store.sql.connection import Connection, Row

_KIND: Final = "tenant"

# The delay between a new quota and the first count of the stored payloads. By then, each gateway
# has read the quota, and all submits without a count of their payloads have ended.
_FIRST_RECOUNT: Final = timedelta(seconds=20)

_STORED_QUOTAS: Final = msgspec.json.Decoder(dict[str, int])


async def read_tenant_rules(conn: Connection) -> Mapping[str, TenantRules]:
    """Return the state and the quotas of each tenant, by name."""
    return {
        row.name: TenantRules(
            state=TenantState(row.state),
            quotas=effective_quotas(_to_quotas(row.quotas), _to_quotas(row.ceilings)),
        )
        for row in await conn.execute(_RULES)
    }


async def create_tenant(
    conn: Connection, *, name: str, quotas: Quotas = NO_QUOTAS, ceilings: Quotas = NO_QUOTAS
) -> Tenant:
    """Create a tenant, in a transaction; see Tenant for the arguments.

    Raises:
        AccessConflict: a tenant with this name already exists.
    """
    rows = await conn.execute(
        _CREATE, {"name": name, "quotas": _from_quotas(quotas), "ceilings": _from_quotas(ceilings)}
    )
    if not rows:
        raise AccessConflict(_KIND, name)
    tenant = _to_tenant(rows.one())
    await _meter(conn, tenant)
    await record_change(conn, tenant=name, kind=TENANT_CREATION, subject=name)
    return tenant


async def get_tenant(conn: Connection, *, name: str) -> Tenant:
    """Return a tenant.

    Raises:
        AccessNotFound: the tenant does not exist.
    """
    row = (await conn.execute(_GET, {"name": name})).one_or_none()
    if row is None:
        raise AccessNotFound(_KIND, name)
    return _to_tenant(row)


async def list_tenants(conn: Connection, *, after: str, limit: int) -> Sequence[Tenant]:
    """Return the tenants with names after `after`, in order, at most `limit`."""
    return [_to_tenant(row) for row in await conn.execute(_LIST, {"after": after, "limit": limit})]


async def suspend_tenant(conn: Connection, *, name: str) -> Tenant:
    """Suspend a tenant, in a transaction.

    Raises:
        AccessNotFound: the tenant does not exist.
        TenantStateConflict: the tenant is being deleted.
    """
    return await _change_state(conn, name, TenantState.SUSPENDED, action="suspend")


async def resume_tenant(conn: Connection, *, name: str) -> Tenant:
    """Make a suspended tenant active again, in a transaction.

    Raises:
        AccessNotFound: the tenant does not exist.
        TenantStateConflict: the tenant is being deleted.
    """
    return await _change_state(conn, name, TenantState.ACTIVE, action="resume")


async def request_deletion(conn: Connection, *, name: str) -> Tenant:
    """Request the deletion of a tenant, in a transaction. A scheduler removes its rows.

    Raises:
        AccessNotFound: the tenant does not exist.
    """
    return await _change_state(conn, name, TenantState.DELETING, action="delete")


async def set_quotas(
    conn: Connection, *, name: str, quotas: Quotas | None, ceilings: Quotas | None
) -> Tenant:
    """Replace the quotas or the ceilings of a tenant, in a transaction; None keeps them.

    Raises:
        AccessNotFound: the tenant does not exist.
        TenantStateConflict: the tenant is being deleted.
    """
    tenant = await _lock(conn, name)
    if tenant.state is TenantState.DELETING:
        raise TenantStateConflict(name, action="set the quotas of", state=tenant.state)
    row = await conn.execute(
        _SET_QUOTAS,
        {
            "name": name,
            "quotas": None if quotas is None else _from_quotas(quotas),
            "ceilings": None if ceilings is None else _from_quotas(ceilings),
        },
    )
    changed = _to_tenant(row.one())
    await _meter(conn, changed)
    await record_change(conn, tenant=name, kind=QUOTAS_CHANGE, subject=name)
    return changed


async def _change_state(conn: Connection, name: str, state: TenantState, *, action: str) -> Tenant:
    tenant = await _lock(conn, name)
    if tenant.state is state:
        return tenant
    if tenant.state is TenantState.DELETING:
        raise TenantStateConflict(name, action=action, state=tenant.state)
    row = await conn.execute(_SET_STATE, {"name": name, "state": state})
    await record_change(conn, tenant=name, kind=TENANT_CHANGE, subject=name)
    return _to_tenant(row.one())


async def _lock(conn: Connection, name: str) -> Tenant:
    row = (await conn.execute(_LOCK, {"name": name})).one_or_none()
    if row is None:
        raise AccessNotFound(_KIND, name)
    return _to_tenant(row)


async def _meter(conn: Connection, tenant: Tenant) -> None:
    """Start or stop counting the usage of a tenant."""
    if COUNTED.isdisjoint(tenant.effective):
        await conn.execute(_END_METER, {"tenant": tenant.name})
    else:
        await conn.execute(_BEGIN_METER, {"tenant": tenant.name, "wait": _FIRST_RECOUNT})


def _to_tenant(row: Row) -> Tenant:
    deletion = None
    if row.delete_time is not None:
        deletion = Deletion(
            request_time=row.delete_time, jobs=row.deletion_jobs, removed_jobs=row.removed_jobs
        )
    return Tenant(
        name=row.name,
        state=TenantState(row.state),
        create_time=row.create_time,
        quotas=_to_quotas(row.quotas),
        ceilings=_to_quotas(row.ceilings),
        deletion=deletion,
    )


def _to_quotas(stored: str) -> Quotas:
    """Return quotas, without those that this version does not know."""
    known = set(Quota)
    return {
        Quota(name): limit for name, limit in _STORED_QUOTAS.decode(stored).items() if name in known
    }


def _from_quotas(quotas: Quotas) -> str:
    return msgspec.json.encode({str(quota): limit for quota, limit in quotas.items()}).decode()


_COLUMNS = "name, state, create_time, quotas, ceilings, delete_time, deletion_jobs, removed_jobs"

_RULES = text("SELECT name, state, quotas, ceilings FROM tenants")

_CREATE = text(f"""
    INSERT INTO tenants (name, quotas, ceilings)
    VALUES (:name, CAST(:quotas AS jsonb), CAST(:ceilings AS jsonb))
    ON CONFLICT (name) DO NOTHING
    RETURNING {_COLUMNS}
""")

_GET = text(f"SELECT {_COLUMNS} FROM tenants WHERE name = :name")

_LOCK = text(f"SELECT {_COLUMNS} FROM tenants WHERE name = :name FOR UPDATE")

_LIST = text(f"""
    SELECT {_COLUMNS} FROM tenants WHERE name > :after ORDER BY name LIMIT :limit
""")

_SET_STATE = text(f"""
    UPDATE tenants
    SET state = :state,
        delete_time = CASE WHEN :state = 'deleting' THEN clock_timestamp() END
    WHERE name = :name
    RETURNING {_COLUMNS}
""")

_SET_QUOTAS = text(f"""
    UPDATE tenants
    SET quotas = coalesce(CAST(:quotas AS jsonb), quotas),
        ceilings = coalesce(CAST(:ceilings AS jsonb), ceilings)
    WHERE name = :name
    RETURNING {_COLUMNS}
""")

# An existing count continues.
_BEGIN_METER = text("""
    INSERT INTO tenant_usage (tenant, recount_time, day)
    VALUES (
        :tenant, clock_timestamp() + CAST(:wait AS interval),
        CAST(clock_timestamp() AT TIME ZONE 'UTC' AS date)
    )
    ON CONFLICT (tenant) DO NOTHING
""")

_END_METER = text("DELETE FROM tenant_usage WHERE tenant = :tenant")

"""Tenants: the names under which all other rows are kept apart."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import text

from headrace_core.domain.access import TenantState
from headrace_core.store.sql.connection import Connection


async def read_tenant_states(conn: Connection) -> Mapping[str, TenantState]:
    """Return the state of each tenant, by name."""
    return {row.name: TenantState(row.state) for row in await conn.execute(_STATES, {})}


_STATES = text("SELECT name, state FROM tenants")

"""The API key cache while a key changes."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from headrace_core.domain.access import AccessChange, PrincipalKind, Role
from headrace_core.domain.errors import Unauthenticated
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.store.access.keys import revoke_api_key
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import read_installation
from headrace_gateway.access.api_keys import ApiKeys
from support.access import add_api_key
from support.until import until

LOCKED = text(
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
    "AND datname = current_database() AND query LIKE '%api_keys%'"
)


async def test_key_changed_during_its_read_is_not_cached(database: Database) -> None:
    async with database.statement() as conn:
        installation = await read_installation(conn)
    key = await add_api_key(database, Role.VIEWER)
    key_id = key.split("_")[1]
    keys = ApiKeys(database=database, installation=installation)

    async def is_waiting() -> bool:
        async with database.statement() as conn:
            return bool(await conn.scalar(LOCKED))

    async with database.transaction() as conn:
        await conn.execute(text("LOCK TABLE api_keys"))
        reading = asyncio.create_task(keys.verify(key))
        await until(is_waiting)
        keys.forget(
            AccessChange(
                version=1, tenant=DEFAULT_TENANT, kind=PrincipalKind.API_KEY, subject=key_id
            )
        )
    assert (await reading).name == "ada"
    async with database.transaction() as conn:
        await revoke_api_key(conn, tenant=DEFAULT_TENANT, key_id=key_id)
    with pytest.raises(Unauthenticated):
        await keys.verify(key)

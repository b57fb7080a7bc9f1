"""Tenants and credentials that tests write directly to the store."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text

from headrace_core.domain.access import Role, parse_scope
from headrace_core.domain.api_key import new_api_key
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.store.access.keys import create_api_key
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import read_installation

Metadata = tuple[tuple[str, str], ...]


def bearer(credential: str) -> Metadata:
    """Return the metadata of a call with a credential."""
    return (("authorization", f"Bearer {credential}"),)


async def add_tenant(database: Database, name: str) -> None:
    """Add an active tenant. Running gateways read it later."""
    async with database.statement() as conn:
        await conn.execute(text("INSERT INTO tenants (name) VALUES (:name)"), {"name": name})


async def add_api_key(
    database: Database,
    role: Role,
    *scope: str,
    tenant: str = DEFAULT_TENANT,
    principal: str = "ada",
    expire_time: datetime | None = None,
) -> str:
    """Add an API key; return the complete key."""
    async with database.statement() as conn:
        key = new_api_key((await read_installation(conn)).secret)
        await create_api_key(
            conn,
            key_id=key.id,
            secret_hash=key.secret_hash,
            tenant=tenant,
            principal=principal,
            role=role,
            scope=parse_scope(scope),
            created_by="test",
            expire_time=expire_time,
        )
    return key.text


async def caller(
    database: Database, role: Role, *scope: str, tenant: str = DEFAULT_TENANT
) -> Metadata:
    """Return the metadata of a new principal with a role and a scope."""
    return bearer(await add_api_key(database, role, *scope, tenant=tenant))

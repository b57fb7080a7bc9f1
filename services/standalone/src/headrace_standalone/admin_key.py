"""The first API key of `headrace up --secure`."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from headrace_core.domain.access import Right, Role, Scope
from headrace_core.domain.api_key import new_api_key
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.keys import create_api_key, has_valid_key
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import read_installation

_PRINCIPAL = "admin"


async def create_first_admin_key(settings: Settings) -> str | None:
    """Create an API key with the role platform if none exists.

    The key can read payloads.

    Args:
        settings: the URL of the migrated database, and its schema.

    Returns:
        The complete key; None if a valid key with this role exists.

    Raises:
        Unavailable: PostgreSQL did not answer.
    """
    database = Database(settings, application="up")
    try:
        async with database.transaction() as conn:
            if await has_valid_key(conn, role=Role.PLATFORM):
                return None
            key = new_api_key((await read_installation(conn)).secret)
            await create_api_key(
                conn,
                key_id=key.id,
                secret_hash=key.secret_hash,
                tenant=DEFAULT_TENANT,
                principal=_PRINCIPAL,
                role=Role.PLATFORM,
                scope=Scope(rights=frozenset({Right.PAYLOAD_READ})),
                created_by="headrace up",
                expire_time=None,
            )
        return key.text
    finally:
        await database.close()


def settings_of(environment: Mapping[str, str]) -> Settings:
    """Return settings with the database of an environment."""
    return Settings(database_url=SecretStr(environment["HEADRACE_DATABASE_URL"]))

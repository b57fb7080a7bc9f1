"""The ground the other tests stand on."""

from __future__ import annotations

from redis import Redis
from sqlalchemy import text

from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from support.databases import Databases


async def test_a_test_has_a_database_of_its_own(settings: Settings, database: Database) -> None:
    async with database.transaction() as connection:
        name = await connection.scalar(text("SELECT current_database()"))
    assert settings.postgresql_url.endswith(f"/{name}")


def test_a_test_begins_with_an_empty_redis(settings: Settings) -> None:
    with Redis.from_url(settings.redis_url.get_secret_value()) as client:
        assert client.dbsize() == 0


def test_databases_can_be_had_without_the_schema(databases: Databases) -> None:
    with databases.fresh(migrated=False) as one, databases.fresh(migrated=False) as other:
        assert one != other

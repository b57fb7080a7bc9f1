"""The fixtures isolate the tests from each other."""

from __future__ import annotations

from redis import Redis
from sqlalchemy import text

from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from support.databases import Databases


async def test_database_fixture_matches_the_settings(
    settings: Settings, database: Database
) -> None:
    async with database.transaction() as connection:
        name = await connection.scalar(text("SELECT current_database()"))
    assert settings.postgresql_url.endswith(f"/{name}")


def test_redis_is_empty_at_the_start_of_a_test(settings: Settings) -> None:
    with Redis.from_url(settings.redis_url.get_secret_value()) as client:
        assert client.dbsize() == 0


def test_fresh_databases_without_schema_are_distinct(databases: Databases) -> None:
    with databases.fresh(migrated=False) as one, databases.fresh(migrated=False) as other:
        assert one != other

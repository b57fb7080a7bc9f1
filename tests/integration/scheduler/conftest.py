"""What the tests of the scheduler share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from headrace_core.settings import Settings
from headrace_core.store.database import Database
from headrace_core.wake import Waker
from support.databases import Databases


@pytest.fixture
def database_url(databases: Databases) -> str:
    """An empty database with the schema, which these tests share."""
    return databases.emptied()


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    """Redis as it is."""
    client: Redis = Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=10)
    yield client
    await client.aclose()


@pytest.fixture
async def waker(settings: Settings, database: Database) -> AsyncIterator[Waker]:
    waker = Waker(settings, database)
    await waker.start()
    yield waker
    await waker.stop()

"""A listener that is known to hear, so that what it hears is what a test has rung."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from sqlalchemy import text

from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.wake import Listener, Topic
from support.until import until

# Long enough that a wait which nothing ends would fail the test.
LONG = 20.0
# Long enough for what must not come to have come.
SHORT = 0.1


@asynccontextmanager
async def listening(
    settings: Settings, database: Database, *topics: Topic, admin: str = ""
) -> AsyncIterator[Listener]:
    """A listener that hears on both ways; that it has begun to counts as a wake-up.

    `admin` is a URL of Redis with more rights than that of the settings.
    """
    listener = Listener(settings, database, *topics)
    await listener.start()
    try:
        await until(lambda: hears_postgresql(database, topics))
        client: Redis = Redis.from_url(admin or settings.redis_url.get_secret_value())
        channels = await channels_of(database, *topics)
        await until(lambda: hears_redis(client, channels))
        await client.aclose()
        assert await listener.wait(LONG)
        while await listener.wait(SHORT):
            pass
        yield listener
    finally:
        await listener.stop()


async def channels_of(database: Database, *topics: Topic) -> list[str]:
    installation = await database.installation_id()
    return [topic.channel(installation) for topic in topics]


async def hears_redis(client: Redis, channels: Sequence[str]) -> bool:
    return all(count for _, count in await client.pubsub_numsub(*channels))


async def hears_postgresql(database: Database, topics: tuple[Topic, ...]) -> bool:
    async with database.transaction() as connection:
        query = await connection.scalar(
            text(
                "SELECT query FROM pg_stat_activity WHERE datname = current_database() "
                "AND query LIKE 'LISTEN%' AND state = 'idle' ORDER BY query_start DESC LIMIT 1"
            )
        )
    return query is not None and topics[-1] in query

"""A connected wake-up subscription without the wake-ups of its start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from sqlalchemy import text

from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus, WakeSubscription
from support.until import until

# Deadline for an expected wake-up, in seconds.
WAKE_UP_TIMEOUT_S = 20.0
# Grace period in which an unexpected wake-up would arrive, in seconds.
QUIET_PERIOD_S = 0.1


@asynccontextmanager
async def listening(
    settings: Settings, database: Database, *topics: Topic, admin: str = ""
) -> AsyncIterator[WakeSubscription]:
    """Yield a subscription on a separate bus, after the wake-ups of its start are consumed.

    Args:
        settings: the settings of the bus.
        database: the database of the bus.
        topics: the topics to receive.
        admin: a Redis URL with more privileges than the one in the settings.
    """
    bus = WakeBus(settings, database, *topics)
    async with connected(bus, settings, database, *topics, admin=admin) as wake:
        yield wake


@asynccontextmanager
async def connected(
    bus: WakeBus, settings: Settings, database: Database, *topics: Topic, admin: str = ""
) -> AsyncIterator[WakeSubscription]:
    """Start a bus for the duration of the block; yield a subscription as `listening` does."""
    wake = bus.subscribe(*topics)
    await bus.start()
    try:
        await until(lambda: postgresql_has_listener(database, topics))
        client: Redis = Redis.from_url(admin or settings.redis_url.get_secret_value())
        channels = await channels_of(database, *topics)
        await until(lambda: redis_has_subscriber(client, channels))
        await client.aclose()
        assert await wake.wait(WAKE_UP_TIMEOUT_S)
        while await wake.wait(QUIET_PERIOD_S):
            pass
        yield wake
    finally:
        await bus.stop()


async def channels_of(database: Database, *topics: Topic) -> list[str]:
    """Return the channel names of topics."""
    installation = await database.installation_id()
    return [topic.channel(installation) for topic in topics]


async def redis_has_subscriber(client: Redis, channels: Sequence[str]) -> bool:
    """Return whether each channel has a subscriber in Redis."""
    return all(count for _, count in await client.pubsub_numsub(*channels))


async def postgresql_has_listener(database: Database, topics: tuple[Topic, ...]) -> bool:
    """Return whether the newest LISTEN session already listens to the last topic."""
    async with database.transaction() as connection:
        query = await connection.scalar(
            text(
                "SELECT query FROM pg_stat_activity WHERE datname = current_database() "
                "AND query LIKE 'LISTEN%' AND state = 'idle' ORDER BY query_start DESC LIMIT 1"
            )
        )
    return query is not None and topics[-1] in query

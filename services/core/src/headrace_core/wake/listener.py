"""The listening end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from redis.asyncio import Redis

from headrace_core.domain.errors import Unavailable
from headrace_core.redis_client import RedisFault, connection_pool
from headrace_core.settings import Settings
from headrace_core.store.database import Database
from headrace_core.store.notify import listen
from headrace_core.wake.topic import Topic

_log = structlog.get_logger()

# A connection that has been quiet for this long is asked for a sign of life, and has as long to
# give it, in seconds: a dead link is found within 10 s.
_PROBE = 5.0


class Listener:
    """Hears wake-ups on both ways at once, and reconnects for ever.

    A reconnection counts as a wake-up, since others may have been missed before it.

    Args:
        settings: where Redis is.
        database: for LISTEN.
        topics: what to hear.
    """

    def __init__(self, settings: Settings, database: Database, *topics: Topic) -> None:
        self._redis = Redis(connection_pool=connection_pool(settings))
        self._database = database
        self._topics = topics
        self._heard = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begins to listen, in the background."""
        self._tasks = [
            asyncio.create_task(self._forever("redis", self._hear_redis)),
            asyncio.create_task(self._forever("postgresql", self._hear_postgresql)),
        ]

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - a wait without one is a bug
        """Waits for a wake-up since the last call, at most `timeout` seconds; tells if one came."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._heard.wait()
        heard = self._heard.is_set()
        self._heard.clear()
        return heard

    async def stop(self) -> None:
        """Stops listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def _forever(self, way: str, hear: Callable[[], Awaitable[None]]) -> None:
        failed = False
        while True:
            try:
                await hear()
            except (Unavailable, *RedisFault):
                if not failed:
                    _log.warning("wake_ups_lost", dependency=way)
                failed = True
            await asyncio.sleep(random.uniform(0.2, 1.0))

    async def _hear_redis(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(*self._topics)
            self._heard.set()
            probed = False
            while True:
                message = await subscription.get_message(timeout=_PROBE)
                if message is not None:
                    probed = False
                    if message["type"] == "message":
                        self._heard.set()
                elif probed:
                    raise TimeoutError
                else:
                    await subscription.ping()
                    probed = True

    async def _hear_postgresql(self) -> None:
        await listen(self._database, self._topics, heard=self._heard.set, probe=_PROBE)

"""The listening end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

import structlog
from redis.asyncio import Redis

from headrace_core.runtime.redis_client import connection_pool
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.notify import listen
from headrace_core.wake.topic import Topic

_log = structlog.get_logger()

# A connection that has been quiet for this long is asked for a sign of life, and has as long to
# give it, in seconds: a dead link is found within 10 s.
_PROBE = 5.0

# How long the background tasks have to end, in seconds.
_END = 2.0


# It is deaf once it has heard on neither way for this long, in seconds: a reconnection takes less.
_DEAF = 5.0


class DeafError(Exception):
    """Wake-ups come neither through Redis nor through PostgreSQL."""


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
        self._heard: set[Topic] = set()
        self._rung = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        # The ways on which it hears, and since when there has been none, by the monotonic clock.
        self._ways: set[str] = set()
        self._deaf_since = time.monotonic()

    async def start(self) -> None:
        """Begins to listen, in the background."""
        self._deaf_since = time.monotonic()
        self._tasks = [
            asyncio.create_task(self._hear_for_ever("redis", self._hear_redis)),
            asyncio.create_task(self._hear_for_ever("postgresql", self._hear_postgresql)),
        ]

    async def wait(self, timeout: float) -> frozenset[Topic]:  # noqa: ASYNC109 - one without is a bug
        """Waits for a wake-up since the last call, at most `timeout` seconds.

        Returns:
            What the wake-ups since then were about; empty when none came.
        """
        if not self._heard:
            self._rung.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._rung.wait()
        heard = frozenset(self._heard)
        self._heard.clear()
        return heard

    async def ping(self) -> None:
        """Tells whether it hears, for a check of health.

        Raises:
            DeafError: on neither way, and so for longer than a reconnection takes.
        """
        if not self._ways and time.monotonic() - self._deaf_since > _DEAF:
            raise DeafError

    async def stop(self) -> None:
        """Stops listening."""
        await end_tasks(*self._tasks, within=_END)
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def _hear_for_ever(
        self, way: str, hear: Callable[[Callable[[Sequence[Topic]], None]], Awaitable[NoReturn]]
    ) -> None:
        lost = False

        def heard(topics: Sequence[Topic]) -> None:
            nonlocal lost
            if lost:
                _log.info("wake_ups_found", dependency=way)
            lost = False
            self._ways.add(way)
            self._heard.update(topics)
            self._rung.set()

        while True:
            try:
                await hear(heard)
            except Exception as fault:  # noqa: BLE001 - the other way goes on, and this one tries again
                if not lost:
                    _log.warning("wake_ups_lost", dependency=way, error=type(fault).__name__)
                lost = True
                if way in self._ways:
                    self._ways.remove(way)
                    self._deaf_since = time.monotonic()
            await asyncio.sleep(random.uniform(0.2, 1.0))

    async def _hear_redis(self, heard: Callable[[Sequence[Topic]], None]) -> NoReturn:
        async with self._redis.pubsub() as subscription:
            topics = await self._channels()
            await subscription.subscribe(*topics)
            heard(self._topics)
            probed = False
            while True:
                message = await subscription.get_message(timeout=_PROBE)
                if message is not None:
                    probed = False
                    if message["type"] == "message":
                        heard((topics[message["channel"].decode()],))
                elif probed:
                    raise TimeoutError
                else:
                    await subscription.ping()
                    probed = True

    async def _hear_postgresql(self, heard: Callable[[Sequence[Topic]], None]) -> NoReturn:
        topics = await self._channels()
        await listen(
            self._database,
            list(topics),
            heard=lambda channels: heard([topics[channel] for channel in channels]),
            probe=_PROBE,
        )

    async def _channels(self) -> Mapping[str, Topic]:
        installation = await self._database.installation_id()
        return {topic.channel(installation): topic for topic in self._topics}

"""Publishes wake-ups through Redis, and through PostgreSQL while Redis is unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import structlog
from redis.asyncio import Redis

from headrace_core.runtime.redis_client import RedisFault, fault_to_log
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.notify import notify
from headrace_core.wake.topic import Channels, Timing, Topic

_log = structlog.get_logger()

# Time limit for publishing the last wake-ups during a stop, in seconds.
_LAST_FLUSH_S = 1.0


class Publisher:
    """Publishes in the background; wake-ups requested during one publication share the next one.

    Args:
        redis: the preferred transport.
        database: used for NOTIFY while Redis is unavailable.
        channels: returns the channels of topics.
        timing: the time limits.
    """

    def __init__(
        self,
        *,
        redis: Redis,
        database: Database,
        channels: Callable[[Iterable[Topic]], Awaitable[Channels]],
        timing: Timing,
    ) -> None:
        self._redis = redis
        self._database = database
        self._channels = channels
        self._timing = timing
        self._pending: set[Topic] = set()
        self._published = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._avoid_redis_until = 0.0

    def start(self) -> None:
        """Publish in the background."""
        self._task = asyncio.create_task(self._run(), name="wake-up publisher")

    def publish(self, *topics: Topic) -> None:
        """Publish soon; never block and never fail."""
        self._pending.update(topics)
        self._published.set()

    async def stop(self) -> None:
        """Publish pending wake-ups and stop."""
        if self._task is not None:
            await end_tasks(self._task, within=self._timing.stop)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_FLUSH_S):
                    await self._flush()

    async def _run(self) -> None:
        while True:
            await self._published.wait()
            await self._flush()

    async def _flush(self) -> None:
        self._published.clear()
        topics, self._pending = self._pending, set()
        if not topics:
            return
        try:
            await self._send(await self._channels(sorted(topics)))
        except asyncio.CancelledError:
            # `stop` publishes these topics: a repeated wake-up is harmless, a lost one is not.
            self._pending |= topics
            raise
        except Exception as fault:  # noqa: BLE001 - subscribers also run at intervals
            _log.warning("wake_up_lost", error=type(fault).__name__)

    async def _send(self, channels: Channels) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._avoid_redis_until:
            try:
                async with (
                    asyncio.timeout(self._timing.publish),
                    self._redis.pipeline(transaction=False) as pipeline,
                ):
                    for channel in channels.redis:
                        pipeline.publish(channel, b"")
                    await pipeline.execute()
                return
            except RedisFault as fault:
                self._avoid_redis_until = now + self._timing.avoid_redis
                _log.warning(
                    "wake_up_through_postgresql",
                    error=type(fault).__name__,
                    exc_info=fault_to_log(fault),
                )
        async with self._database.statement() as connection:
            await notify(connection, list(channels.postgresql))

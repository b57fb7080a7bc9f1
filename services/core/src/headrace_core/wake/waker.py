"""The ringing end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog
from redis.asyncio import Redis

from headrace_core.runtime.redis_client import RedisFault, check_writes, connection_pool, unexpected
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.notify import notify
from headrace_core.wake.topic import Topic

_log = structlog.get_logger()

# How long Redis may take for a wake-up, which is late otherwise, in seconds.
_PATIENCE = 0.5
# How long the background task has to end, in seconds.
_END = 2.0
# How long wake-ups go through PostgreSQL alone after Redis has failed, in seconds.
_PAUSE = 5.0


class Waker:
    """Rings for others, in the background: what is rung while a ring is on its way goes together.

    Args:
        settings: where Redis is.
        database: for NOTIFY while Redis is gone.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._redis = Redis(connection_pool=connection_pool(settings))
        self._database = database
        self._pending: set[Topic] = set()
        self._rung = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._redis_down_until = 0.0

    async def start(self) -> None:
        """Begins to ring."""
        self._task = asyncio.create_task(self._run(), name="waker")

    def ring(self, *topics: Topic) -> None:
        """Rings soon; never blocks and never fails. To be called after the commit."""
        self._pending.update(topics)
        self._rung.set()

    async def ping(self) -> None:
        """Check that Redis takes writes, for health.

        Raises:
            Exception: it does not.
        """
        await check_writes(self._redis, await self._database.installation_id())

    async def stop(self) -> None:
        """Rings what is pending and closes."""
        if self._task is not None:
            await end_tasks(self._task, within=_END)
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._flush()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def _run(self) -> None:
        while True:
            await self._rung.wait()
            await self._flush()

    async def _flush(self) -> None:
        self._rung.clear()
        topics, self._pending = self._pending, set()
        if not topics:
            return
        try:
            installation = await self._database.installation_id()
            channels = [topic.channel(installation) for topic in sorted(topics)]
            await self._publish(channels)
        except Exception as fault:  # noqa: BLE001 - a lost wake-up costs a moment, no more
            _log.warning("wake_up_lost", error=type(fault).__name__)

    async def _publish(self, channels: Sequence[str]) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._redis_down_until:
            try:
                async with (
                    asyncio.timeout(_PATIENCE),
                    self._redis.pipeline(transaction=False) as pipeline,
                ):
                    for channel in channels:
                        pipeline.publish(channel, b"")
                    await pipeline.execute()
                return
            except RedisFault as fault:
                self._redis_down_until = now + _PAUSE
                _log.warning(
                    "wake_up_through_postgresql",
                    error=type(fault).__name__,
                    exc_info=unexpected(fault),
                )
        async with self._database.statement() as connection:
            await notify(connection, channels)

"""Receives wake-ups through Redis and PostgreSQL at the same time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NoReturn

import structlog
from redis.asyncio import Redis

from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.notify import listen
from headrace_core.wake.topic import Channels, Timing, Topic

_log = structlog.get_logger()


class WakeUpsLost(Exception):
    """Neither Redis nor PostgreSQL delivers wake-ups."""


class Receiver:
    """Receives wake-ups through both transports, and reconnects until it is stopped.

    Args:
        redis: used for the Redis subscription.
        database: used for LISTEN.
        channels: returns the channels to receive, with their topics.
        deliver: called with the received topics. The reading task calls it, so a wake-up reaches
            its subscribers without another task. Each new connection counts as a wake-up of every
            topic.
        timing: the time limits and waits.
    """

    def __init__(
        self,
        *,
        redis: Redis,
        database: Database,
        channels: Callable[[], Awaitable[Channels]],
        deliver: Callable[[Iterable[Topic]], None],
        timing: Timing,
    ) -> None:
        self._redis = redis
        self._database = database
        self._channels = channels
        self._deliver = deliver
        self._timing = timing
        self._tasks: list[asyncio.Task[None]] = []
        # The connected transports, and the monotonic time at which the last one was lost.
        self._connected: set[str] = set()
        self._disconnected_since = time.monotonic()

    def start(self) -> None:
        """Receive in the background."""
        self._disconnected_since = time.monotonic()
        self._tasks = [
            asyncio.create_task(self._receive("redis", self._receive_redis)),
            asyncio.create_task(self._receive("postgresql", self._receive_postgresql)),
        ]

    def check(self) -> None:
        """Check that one of the transports is connected.

        Raises:
            WakeUpsLost: neither has been connected for longer than a reconnection takes.
        """
        if (
            not self._connected
            and time.monotonic() - self._disconnected_since > self._timing.max_gap
        ):
            raise WakeUpsLost

    async def stop(self) -> None:
        """Stop receiving."""
        await end_tasks(*self._tasks, within=self._timing.stop)

    async def _receive(
        self,
        transport: str,
        read: Callable[[Channels, Callable[[Iterable[Topic]], None]], Awaitable[NoReturn]],
    ) -> None:
        lost = False

        def received(topics: Iterable[Topic]) -> None:
            nonlocal lost
            if lost:
                _log.info("wake_ups_restored", dependency=transport)
            lost = False
            self._connected.add(transport)
            self._deliver(topics)

        while True:
            try:
                await read(await self._channels(), received)
            except Exception as fault:  # noqa: BLE001 - the other transport works, and this one reconnects
                if not lost:
                    _log.warning("wake_ups_lost", dependency=transport, error=type(fault).__name__)
                lost = True
                if transport in self._connected:
                    self._connected.remove(transport)
                    self._disconnected_since = time.monotonic()
            await asyncio.sleep(random.uniform(*self._timing.reconnect))

    async def _receive_redis(
        self, channels: Channels, received: Callable[[Iterable[Topic]], None]
    ) -> NoReturn:
        topics = channels.redis
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(*topics)
            received(topics.values())
            probed = False
            while True:
                message = await subscription.get_message(timeout=self._timing.probe)
                if message is not None:
                    probed = False
                    if message["type"] == "message":
                        received((topics[message["channel"].decode()],))
                elif probed:
                    raise TimeoutError
                else:
                    await subscription.ping()
                    probed = True

    async def _receive_postgresql(
        self, channels: Channels, received: Callable[[Iterable[Topic]], None]
    ) -> NoReturn:
        topics = channels.postgresql
        await listen(
            self._database,
            list(topics),
            on_notify=lambda channels: received([topics[channel] for channel in channels]),
            probe=self._timing.probe,
        )

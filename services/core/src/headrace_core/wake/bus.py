"""The wake-up bus of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from redis.asyncio import Redis

from headrace_core.runtime.loop import Wake
from headrace_core.runtime.redis_client import check_writes, connection_pool
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.wake.publisher import Publisher
from headrace_core.wake.receiver import Receiver
from headrace_core.wake.topic import Channels, Timing, Topic


class WakeSubscription(Wake):
    """The wake-ups of some topics for one subscriber.

    Args:
        accepts: returns whether to accept a wake-up of a topic now; None to accept all.
    """

    def __init__(self, *, accepts: Callable[[Topic], bool] | None = None) -> None:
        super().__init__()
        self._accepts = accepts
        self._received: set[Topic] = set()

    def notify(self, topic: Topic) -> None:
        """Wake the subscriber, or make its next wait return at once."""
        if self._accepts is None or self._accepts(topic):
            self._received.add(topic)
            self.set()

    def clear(self) -> None:
        """Discard the wake-ups received so far."""
        self._received.clear()
        super().clear()

    async def wait(self, timeout: float) -> frozenset[Topic]:  # noqa: ASYNC109 - the timeout is a result
        """Wait at most `timeout` seconds for a wake-up after the previous call.

        Returns:
            The topics of all wake-ups after the previous call; empty after a timeout.
        """
        if not self._received:
            super().clear()
            await self.sleep(timeout)
        received = frozenset(self._received)
        self._received.clear()
        return received


class WakeBus:
    """Publishes wake-ups, and delivers received wake-ups to the subscribers in this process.

    All subscribers share one Redis subscription and one LISTEN session. A reconnection counts as a
    wake-up of every topic, because wake-ups may have been lost before it.

    Args:
        settings: the address of Redis.
        database: used for LISTEN, and for NOTIFY while Redis is unavailable.
        topics: the topics to receive; without topics, the bus only publishes.
        timing: the time limits and waits.
    """

    def __init__(
        self, settings: Settings, database: Database, *topics: Topic, timing: Timing | None = None
    ) -> None:
        timing = Timing() if timing is None else timing
        self._redis = Redis(connection_pool=connection_pool(settings))
        self._prefix = settings.redis_prefix
        self._database = database
        self._subscriptions: dict[Topic, dict[WakeSubscription, None]] = {
            topic: {} for topic in topics
        }
        self._publisher = Publisher(
            redis=self._redis, database=database, channels=self._channels, timing=timing
        )
        self._receiver = (
            Receiver(
                redis=self._redis,
                database=database,
                channels=self._channels_received,
                deliver=self._deliver,
                timing=timing,
            )
            if topics
            else None
        )

    async def start(self) -> None:
        """Connect and deliver in the background."""
        self._publisher.start()
        if self._receiver is not None:
            self._receiver.start()

    async def stop(self) -> None:
        """Publish pending wake-ups and close the connections."""
        stops = [self._publisher.stop()]
        if self._receiver is not None:
            stops.append(self._receiver.stop())
        await asyncio.gather(*stops)
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def publish(self, *topics: Topic) -> None:
        """Wake the subscribers of topics in all processes soon; never block and never fail.

        Call this method after the change is committed.
        """
        self._publisher.publish(*topics)

    def subscribe(
        self, *topics: str, accepts: Callable[[Topic], bool] | None = None
    ) -> WakeSubscription:
        """Return a new subscription.

        Args:
            topics: members of `Topic` that the bus receives.
            accepts: returns whether to accept a wake-up of a topic now; None to accept all.

        Raises:
            KeyError: the bus does not receive one of the topics.
        """
        subscription = WakeSubscription(accepts=accepts)
        for topic in topics:
            self._subscriptions[Topic(topic)][subscription] = None
        return subscription

    def unsubscribe(self, subscription: WakeSubscription) -> None:
        """Stop deliveries to a subscription."""
        for subscribers in self._subscriptions.values():
            subscribers.pop(subscription, None)

    async def ping(self) -> None:
        """Check that wake-ups are received, for the health check.

        Raises:
            WakeUpsLost: neither Redis nor PostgreSQL delivers wake-ups.
        """
        if self._receiver is not None:
            self._receiver.check()

    async def ping_redis(self) -> None:
        """Check that Redis accepts writes, for the health check.

        Raises:
            Exception: Redis rejected the write or did not respond.
        """
        await check_writes(self._redis, self._prefix, await self._database.installation_id())

    def _deliver(self, topics: Iterable[Topic]) -> None:
        for topic in topics:
            for subscription in self._subscriptions[topic]:
                subscription.notify(topic)

    async def _channels(self, topics: Iterable[Topic]) -> Channels:
        installation = await self._database.installation_id()
        return Channels.of(topics, prefix=self._prefix, installation=installation)

    async def _channels_received(self) -> Channels:
        return await self._channels(self._subscriptions)

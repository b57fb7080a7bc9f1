"""Delivery by the scheduler, and hand-off by a gateway."""

from __future__ import annotations

import time
from collections.abc import Sequence

from arq.connections import ArqRedis
from arq.jobs import serialize_job

from headrace_core.delivery.keys import (
    EXPIRE_MS,
    FUNCTION_NAME,
    ReadInstallationId,
    connect,
    queue_key,
    record_prefix,
    serialize,
)
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.redis_client import RedisFault, check_writes
from headrace_core.runtime.settings import Settings

# Writes the record and the queue entry of each delivery in arq's format. Writes nothing if the
# queue already has ARGV[2] entries. The queue expires, because its pool may have no workers left.
_DELIVER = """
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
for i = 4, #ARGV, 3 do
    redis.call('SET', ARGV[3] .. ARGV[i], ARGV[i + 2], 'PX', ARGV[1])
    redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""
_NO_LIMIT = 2**31


class Deliverer:
    """Adds deliveries to the arq queues of pools.

    Args:
        settings: the address of Redis.
        identify: returns the installation id.
    """

    def __init__(self, settings: Settings, *, identify: ReadInstallationId) -> None:
        self._identify = identify
        self._prefix = settings.redis_prefix
        self._redis: ArqRedis = connect(settings)
        self._script = self._redis.register_script(_DELIVER)

    async def deliver(self, pool: str, deliveries: Sequence[tuple[AttemptKey, float]]) -> None:
        """Deliver to a pool, in one round trip.

        A delivery that is already in the queue stays unchanged.

        Args:
            pool: the name of the pool.
            deliveries: each attempt and its rank. Workers pop the lowest rank first.

        Raises:
            Unavailable: Redis is unavailable, or PostgreSQL is unavailable when the first delivery
                reads the installation id. Some deliveries may be in the queue.
        """
        await self._deliver(pool, deliveries, _NO_LIMIT)

    async def hand_off(
        self, pool: str, deliveries: Sequence[tuple[AttemptKey, float]], *, most: int
    ) -> bool:
        """Add all deliveries to a pool's queue, or none if the queue has `most` or more entries.

        Returns:
            True if the deliveries were added.

        Raises:
            Unavailable: Redis or PostgreSQL is unavailable. The deliveries may be in the queue.
        """
        return await self._deliver(pool, deliveries, most)

    async def _deliver(
        self, pool: str, deliveries: Sequence[tuple[AttemptKey, float]], most: int
    ) -> bool:
        queue = queue_key(self._prefix, await self._identify(), pool)
        now_ms = int(time.time() * 1000)
        arguments: list[str | bytes | int | float] = [
            EXPIRE_MS,
            most,
            record_prefix(self._prefix),
        ]
        for delivery, rank in deliveries:
            name = str(delivery)
            record = serialize_job(FUNCTION_NAME, (name,), {}, None, now_ms, serializer=serialize)
            arguments += (name, rank, record)
        try:
            return bool(await self._script(keys=[queue], args=arguments))
        except RedisFault as fault:
            raise Unavailable("redis") from fault

    async def ping(self) -> None:
        """Check that Redis accepts deliveries.

        Raises:
            Unavailable: Redis is unavailable or rejects writes.
        """
        installation = await self._identify()
        try:
            await check_writes(self._redis, self._prefix, installation)
        except RedisFault as fault:
            raise Unavailable("redis") from fault

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

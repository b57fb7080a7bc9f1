"""The scheduler's end."""

from __future__ import annotations

import time
from collections.abc import Sequence

from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import serialize_job

from headrace_core.dispatch.keys import (
    EXPIRE_MS,
    FUNCTION,
    bell_key,
    connect,
    queue_key,
    serialize,
)
from headrace_core.domain.delivery import Delivery
from headrace_core.domain.errors import Unavailable
from headrace_core.redis_client import RedisFault
from headrace_core.settings import Settings

# More rings than this would wake nobody new: a worker that leaves something rings for the next.
_MAX_RINGS = 16
_BELL_EXPIRE_S = 60


class Deliverer:
    """Puts deliveries into the pools' arq queues.

    Args:
        settings: where Redis is.
    """

    def __init__(self, settings: Settings) -> None:
        self._redis: ArqRedis = connect(settings)

    async def deliver(self, pool: str, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        """Delivers to a pool, in one round trip: the delivery and its rank, lowest first.

        What is delivered already stays as it is.

        Raises:
            Unavailable: Redis is gone. Some may have been delivered.
        """
        now_ms = int(time.time() * 1000)
        scores: dict[str, float] = {}
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for delivery, rank in deliveries:
                    name = str(delivery)
                    scores[name] = rank
                    record = serialize_job(
                        FUNCTION, (name,), {}, None, now_ms, serializer=serialize
                    )
                    pipeline.set(job_key_prefix + name, record, px=EXPIRE_MS)
                pipeline.zadd(queue_key(pool), scores)
                # Nobody empties the queue of a pool that is gone for good.
                pipeline.pexpire(queue_key(pool), EXPIRE_MS)
                pipeline.lpush(bell_key(pool), b"")
                pipeline.ltrim(bell_key(pool), 0, _MAX_RINGS - 1)
                pipeline.expire(bell_key(pool), _BELL_EXPIRE_S)
                await pipeline.execute()
        except RedisFault as fault:
            raise Unavailable("redis") from fault

    async def ping(self) -> None:
        """Asks Redis for a sign of life.

        Raises:
            Unavailable: there is none.
        """
        try:
            await self._redis.ping()
        except RedisFault as fault:
            raise Unavailable("redis") from fault

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

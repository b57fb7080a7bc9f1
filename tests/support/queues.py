"""The arq queues of pools, as a server has them."""

from __future__ import annotations

from redis.asyncio import Redis


async def queue_of(redis: Redis, pool: str) -> str:
    """Return the key of a pool's queue; when there is none, a name that no key has."""
    keys = await redis.keys(f"headrace:*:queue:{pool}")
    return keys[0].decode() if keys else "none"

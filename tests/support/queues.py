"""The arq queue of a pool."""

from __future__ import annotations

from redis.asyncio import Redis


async def queue_of(redis: Redis, pool: str) -> str:
    """Return the key of a pool's queue, or an unused key if there is none."""
    keys = await redis.keys(f"headrace:*:queue:{pool}")
    return keys[0].decode() if keys else "none"

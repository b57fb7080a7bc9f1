"""The connection to Redis."""

from __future__ import annotations

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from headrace_core.settings import Settings

# What a Redis that is gone, or hangs, shows itself as.
RedisFault = (RedisError, OSError, TimeoutError)


def connection_pool(settings: Settings, *, name: str | None = None) -> ConnectionPool:
    """Connections that give up after `redis_timeout` seconds, and never retry by themselves.

    Whoever uses one knows what a fault means there; a hidden retry would only delay that.

    Args:
        settings: where Redis is.
        name: what Redis calls the connections in its list of clients.
    """
    return ConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        socket_connect_timeout=settings.redis_timeout,
        socket_timeout=settings.redis_timeout,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        max_connections=1000,
        client_name=name,
    )

"""Connections to Redis."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from headrace_core.runtime.settings import Settings

# Any error of the client, so that an unexpected one leads to the fallback to PostgreSQL as well.
RedisFault: Final = (Exception,)

# Errors of an unavailable or hung server.
_EXPECTED: Final = (RedisError, OSError, TimeoutError)

# Lifetime of the key of a check, in milliseconds.
_PROBE_MS: Final = 1000


def connection_pool(settings: Settings, *, name: str | None = None) -> ConnectionPool:
    """Return a pool of connections that time out after `redis_timeout` seconds and never retry.

    The caller handles faults, and a hidden retry would delay it.

    Args:
        settings: the address of Redis.
        name: the name of the connections in CLIENT LIST of Redis.
    """
    url = settings.redis_url.get_secret_value()
    tcp: dict[str, Any] = {} if url.startswith("unix:") else {"socket_keepalive": True}
    return ConnectionPool.from_url(
        url,
        socket_connect_timeout=settings.redis_timeout,
        socket_timeout=settings.redis_timeout,
        **tcp,
        retry=Retry(NoBackoff(), 0),
        max_connections=1000,
        client_name=name,
    )


def unexpected(fault: Exception) -> Exception | None:
    """Return an error that should be logged with its traceback; None for faults of the server."""
    return None if isinstance(fault, _EXPECTED) else fault


def key(installation: UUID, *parts: str) -> str:
    """Return the name of a key: `headrace:{installation}:…`.

    Several installations may share a Redis database.
    """
    return ":".join(("headrace", installation.hex, *parts))


async def check_writes(client: Redis, installation: UUID) -> None:
    """Check that Redis accepts writes; a full server and a replica still answer a PING.

    Raises:
        Exception: Redis rejected the write or did not answer.
    """
    await client.set(key(installation, "probe"), b"", px=_PROBE_MS)

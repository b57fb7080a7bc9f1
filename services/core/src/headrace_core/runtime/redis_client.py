"""Connections to Redis."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from headrace_core.runtime.settings import Settings

# All errors of the client. Unexpected errors cause the fallback to PostgreSQL too.
RedisFault: Final = (Exception,)

# Errors that an unavailable or hung server causes.
_EXPECTED_ERRORS: Final = (RedisError, OSError, TimeoutError)

# Lifetime of the key that a check writes, in milliseconds.
_PROBE_MS: Final = 1000


def connection_pool(settings: Settings, *, name: str | None = None) -> ConnectionPool:
    """Return a pool of connections that time out after `redis_timeout` seconds and never retry.

    The caller handles faults; a hidden retry would delay the caller.

    Args:
        settings: the address of Redis.
        name: the name of the connections in Redis's CLIENT LIST.
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


def fault_to_log(fault: Exception) -> Exception | None:
    """Return the fault if its traceback should be logged; None if the server caused it."""
    return None if isinstance(fault, _EXPECTED_ERRORS) else fault


def key(prefix: str, installation: UUID, *parts: str) -> str:
    """Return the name of a key: `{prefix}:{installation}:…`.

    Several installations can share a Redis database.
    """
    return ":".join((prefix, installation.hex, *parts))


async def check_writes(client: Redis, prefix: str, installation: UUID) -> None:
    """Check that Redis accepts writes; a full server or a replica still responds to a PING.

    Raises:
        Exception: Redis rejected the write or did not respond.
    """
    await client.set(key(prefix, installation, "probe"), b"", px=_PROBE_MS)

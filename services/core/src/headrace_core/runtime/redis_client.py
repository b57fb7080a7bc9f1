"""The connection to Redis."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from headrace_core.runtime.settings import Settings

# Any error of the client: an unforeseen one must not bypass the fallback to PostgreSQL either.
RedisFault: Final = (Exception,)

# The errors of a server that is gone, or hangs.
_EXPECTED: Final = (RedisError, OSError, TimeoutError)

# How long the key of a check lives, in milliseconds.
_PROBE_MS: Final = 1000


def connection_pool(settings: Settings, *, name: str | None = None) -> ConnectionPool:
    """Connections that give up after `redis_timeout` seconds, and never retry by themselves.

    Whoever uses one knows what a fault means there; a hidden retry would only delay that.

    Args:
        settings: where Redis is.
        name: what Redis calls the connections in its list of clients.
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
    """Return an error that no server causes, to be logged with its traceback; None for others."""
    return None if isinstance(fault, _EXPECTED) else fault


def key(installation: UUID, *parts: str) -> str:
    """Return the name of a key: `headrace:{installation}:…`.

    Several installations may share a Redis database.
    """
    return ":".join(("headrace", installation.hex, *parts))


async def check_writes(client: Redis, installation: UUID) -> None:
    """Check that Redis takes writes; a full one and a replica still answer a PING.

    Raises:
        Exception: it does not.
    """
    await client.set(key(installation, "probe"), b"", px=_PROBE_MS)

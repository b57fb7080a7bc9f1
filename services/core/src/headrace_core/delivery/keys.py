"""Redis key names, and arq's record format and connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
from arq.connections import ArqRedis
from arq.constants import job_key_prefix

from headrace_core.runtime.redis_client import connection_pool, key
from headrace_core.runtime.settings import DEFAULT_REDIS_PREFIX, Settings

# The only arq function. Its argument is the name of the delivery.
FUNCTION_NAME = "run"

# Lifetime of a delivery that no worker pops, in milliseconds. The scheduler redelivers earlier.
EXPIRE_MS = 3_600_000

# A function that returns the installation id, which is part of every key.
ReadInstallationId = Callable[[], Awaitable[UUID]]


def queue_key(prefix: str, installation: UUID, pool: str) -> str:
    """Return the key of a pool's arq queue, a sorted set of delivery names by rank."""
    return key(prefix, installation, "queue", pool)


def record_prefix(prefix: str) -> str:
    """Return the first part of the keys of arq's job records.

    arq itself always uses `arq:job:`, so only the default prefix is compatible with its own worker.
    """
    return job_key_prefix if prefix == DEFAULT_REDIS_PREFIX else f"{prefix}:{job_key_prefix}"


def serialize(value: dict[str, Any]) -> bytes:
    """Encode an arq job record as msgpack. Arq's default is pickle, which can run code."""
    return msgspec.msgpack.encode(value)


def deserialize(value: bytes) -> dict[str, Any]:
    """Decode the result of `serialize`."""
    record: dict[str, Any] = msgspec.msgpack.decode(value)
    return record


def connect(settings: Settings, *, name: str | None = None) -> ArqRedis:
    """Return arq's Redis client with our serializer.

    Args:
        settings: the address of Redis.
        name: the name of the connections in Redis's CLIENT LIST.
    """
    return ArqRedis(
        connection_pool(settings, name=name),
        job_serializer=serialize,
        job_deserializer=deserialize,
        expires_extra_ms=EXPIRE_MS,
    )

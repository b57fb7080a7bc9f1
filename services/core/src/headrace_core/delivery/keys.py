"""Names in Redis, and what stands behind them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
from arq.connections import ArqRedis

from headrace_core.runtime.redis_client import connection_pool, key
from headrace_core.runtime.settings import Settings

# The one arq function there is; its argument is the delivery's name.
FUNCTION = "run"

# How long arq keeps a delivery that nobody takes. It is delivered again long before.
EXPIRE_MS = 3_600_000


# Returns the installation's id, which is in the name of each key.
Identify = Callable[[], Awaitable[UUID]]


def queue_key(installation: UUID, pool: str) -> str:
    """The arq queue of a pool: a sorted set of delivery names by rank."""
    return key(installation, "queue", pool)


def serialize(value: dict[str, Any]) -> bytes:
    """Arq's job record as msgpack. arq's default would be pickle, which runs what it reads."""
    return msgspec.msgpack.encode(value)


def deserialize(value: bytes) -> dict[str, Any]:
    """The reverse of serialize."""
    record: dict[str, Any] = msgspec.msgpack.decode(value)
    return record


def connect(settings: Settings, *, name: str | None = None) -> ArqRedis:
    """Arq's Redis client with our serializer; Redis knows its connections by `name`."""
    return ArqRedis(
        connection_pool(settings, name=name),
        job_serializer=serialize,
        job_deserializer=deserialize,
        expires_extra_ms=EXPIRE_MS,
    )

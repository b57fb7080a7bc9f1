"""What a Redis server says of itself, for whoever has to look after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.redis_client import RedisFault, connection_pool
from headrace_core.runtime.settings import Settings

_PROBE = "headrace:probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """The server: its product's name and release, as `Valkey` and `9.0.1`.

    `version` is that of the Redis with the same commands.

    `memory` and `max_memory` (0: no limit) are bytes, `policy` what it does at that limit.
    `refusal` is its answer to a write; empty when it takes one.
    """

    name: str
    release: str
    version: str
    connections: int
    memory: int
    max_memory: int
    policy: str
    refusal: str = ""


async def read_redis(settings: Settings) -> RedisServer:
    """Asks the server.

    Raises:
        Unavailable: it cannot be reached, or refuses to answer.
    """
    client = Redis(connection_pool=connection_pool(settings))
    try:
        info = await client.info("everything")
        refusal = ""
        try:
            await client.set(_PROBE, b"", px=1000)
        except ResponseError as error:
            refusal = str(error)
        return _server(info, refusal)
    except RedisFault as fault:
        raise Unavailable("redis") from fault
    finally:
        await client.aclose(close_connection_pool=True)


def _server(info: Mapping[str, Any], refusal: str) -> RedisServer:
    # Valkey and others name themselves and their release, and a Redis that they are like.
    name = str(info.get("server_name", "redis"))
    return RedisServer(
        name=name.capitalize(),
        release=str(info.get(f"{name}_version", info["redis_version"])),
        version=str(info["redis_version"]),
        connections=int(info["connected_clients"]),
        memory=int(info["used_memory"]),
        max_memory=int(info["maxmemory"]),
        policy=str(info["maxmemory_policy"]),
        refusal=refusal,
    )

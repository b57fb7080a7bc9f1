"""The state of a Redis server, for its operators."""

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
    """The state of a server.

    Attributes:
        name: the name of the product, such as `Valkey`.
        release: the release of the product, such as `9.0.1`.
        version: the Redis version that the server is compatible with.
        connections: the number of connected clients.
        memory: the memory in use, in bytes.
        max_memory: the memory limit in bytes; 0 for no limit.
        policy: the eviction policy at that limit.
        refusal: the error of a write; empty if the server accepts writes.
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
    """Read the state of the server, and try a write.

    Raises:
        Unavailable: the server cannot be reached or refuses the command.
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
    # Compatible servers report their own name and release, and the Redis version that they match.
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

"""The state of a Redis server, for operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.redis_client import RedisFault, connection_pool
from headrace_core.runtime.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """The state of a server.

    Attributes:
        name: the product name, such as `Valkey`.
        release: the product version, such as `9.0.1`.
        version: the Redis version that the server is compatible with.
        connections: the number of connected clients.
        memory: the memory in use, in bytes.
        max_memory: the memory limit in bytes; 0 for no limit.
        policy: the eviction policy at that limit.
        write_error: the error that a write caused; empty if the server accepts writes.
    """

    name: str
    release: str
    version: str
    connections: int
    memory: int
    max_memory: int
    policy: str
    write_error: str = ""


async def read_redis(settings: Settings) -> RedisServer:
    """Read the server state, and try a write.

    Raises:
        Unavailable: the server cannot be reached or rejects the command.
    """
    client = Redis(connection_pool=connection_pool(settings))
    try:
        info = await client.info("everything")
        write_error = ""
        try:
            await client.set(f"{settings.redis_prefix}:probe", b"", px=1000)
        except ResponseError as error:
            write_error = str(error)
        return _to_server(info, write_error)
    except RedisFault as fault:
        raise Unavailable("redis") from fault
    finally:
        await client.aclose(close_connection_pool=True)


def _to_server(info: Mapping[str, Any], write_error: str) -> RedisServer:
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
        write_error=write_error,
    )

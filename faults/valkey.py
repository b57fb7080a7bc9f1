"""The Redis-compatible server, which a scenario can kill, flush and restore."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from headrace_core.domain.attempt import AttemptKey
from support.server import Server

_QUEUE_KEYS = "headrace:*:queue:*"


class Valkey:
    """The server that stores the deliveries; commands bypass the links.

    Args:
        server: the process.
        url: the server's own URL, which bypasses the links.
        home: the folder for snapshots.
    """

    def __init__(self, server: Server, url: str, home: Path) -> None:
        self.server = server
        self.url = url
        self._dump = home / "dump.rdb"

    async def kill(self) -> None:
        """Kill the server; its data is lost."""
        await asyncio.to_thread(self.server.kill)

    async def start(self, *, snapshot: Path | None = None) -> None:
        """Start the server at the same address, and wait until it serves.

        Args:
            snapshot: the data to load, from `save`; None for an empty server.
        """
        self._dump.unlink(missing_ok=True)
        if snapshot is not None:
            shutil.copyfile(snapshot, self._dump)
        self.server.launch()
        await self.server.serving()

    async def flush(self) -> None:
        """Delete all data."""
        async with self.client() as client:
            await client.flushall()

    async def save(self) -> Path:
        """Write a snapshot of the data and return its path."""
        async with self.client() as client:
            await client.save()
        return Path(shutil.move(self._dump, self._dump.with_suffix(".old")))

    async def waiting_deliveries(self) -> set[AttemptKey]:
        """Return the deliveries that no worker has received."""
        found: set[AttemptKey] = set()
        async with self.client() as client:
            async for key in client.scan_iter(match=_QUEUE_KEYS):
                names = await client.zrange(key, 0, -1)
                found.update(AttemptKey.parse(name.decode()) for name in names)
        return found

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """Open a connection that bypasses the links."""
        client: Redis = Redis.from_url(self.url, socket_timeout=10, socket_connect_timeout=10)
        try:
            yield client
        finally:
            await client.aclose()

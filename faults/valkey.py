"""The Redis-compatible server, to lose it and what it holds."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from headrace_core.domain.attempt import AttemptKey
from support.server import Server

_QUEUES = "headrace:*:queue:*"


class Valkey:
    """The server of the deliveries. The commands go past all links.

    Args:
        server: its process.
        url: its own.
        home: where it keeps what it is told to save.
    """

    def __init__(self, server: Server, url: str, home: Path) -> None:
        self.server = server
        self.url = url
        self._dump = home / "dump.rdb"

    async def kill(self) -> None:
        """Kills it; what it holds is gone."""
        await asyncio.to_thread(self.server.kill)

    async def start(self, *, snapshot: Path | None = None) -> None:
        """Starts it again where it was, and waits until it serves.

        Args:
            snapshot: what it holds then, from `save`; None: nothing.
        """
        self._dump.unlink(missing_ok=True)
        if snapshot is not None:
            shutil.copyfile(snapshot, self._dump)
        self.server.launch()
        await self.server.serving()

    async def flush(self) -> None:
        """Deletes everything."""
        async with self.client() as client:
            await client.flushall()

    async def save(self) -> Path:
        """Writes a snapshot of what it holds now."""
        async with self.client() as client:
            await client.save()
        return Path(shutil.move(self._dump, self._dump.with_suffix(".old")))

    async def waiting(self) -> set[AttemptKey]:
        """The deliveries that no worker has taken."""
        found: set[AttemptKey] = set()
        async with self.client() as client:
            async for key in client.scan_iter(match=_QUEUES):
                names = await client.zrange(key, 0, -1)
                found.update(AttemptKey.parse(name.decode()) for name in names)
        return found

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """A connection of the harness's own."""
        client: Redis = Redis.from_url(self.url, socket_timeout=10, socket_connect_timeout=10)
        try:
            yield client
        finally:
            await client.aclose()

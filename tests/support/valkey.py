"""A Valkey server that belongs to a single test, which may kill and restart it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.valkey import EmbeddedValkey
from support.server import Server, serving


@dataclass(frozen=True)
class OwnValkey:
    """A running server and its URL."""

    server: Server
    url: str

    def kill(self) -> None:
        """Kill the server and lose its data."""
        self.server.kill()

    async def restart(self) -> None:
        """Restart the server, empty, at the same URL."""
        await asyncio.to_thread(self.server.start)


@contextmanager
def own_valkey(*options: str) -> Iterator[OwnValkey]:
    """Run a Valkey server for the duration of the block; `options` override its configuration."""
    with DataFolder.temporary() as folder:
        valkey = EmbeddedValkey(folder=folder)
        program = valkey.program()
        program = replace(program, command=(*program.command, *options))
        with serving(program, log=folder.logs / "valkey.log") as server:
            yield OwnValkey(server, valkey.url)

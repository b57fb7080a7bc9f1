"""A Valkey that one test alone has, to take it away and to give it back."""

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
    """A server that runs, and where."""

    server: Server
    url: str

    def kill(self) -> None:
        """Takes it away, with all that it holds."""
        self.server.kill()

    async def give_back(self) -> None:
        """Starts it again, empty, where it was."""
        await asyncio.to_thread(self.server.start)


@contextmanager
def own_valkey(*options: str) -> Iterator[OwnValkey]:
    """Starts a Valkey for the length of the block; `options` go over its configuration."""
    with DataFolder.temporary() as folder:
        valkey = EmbeddedValkey(folder=folder)
        program = valkey.program()
        program = replace(program, command=(*program.command, *options))
        with serving(program, log=folder.logs / "valkey.log") as server:
            yield OwnValkey(server, valkey.url)

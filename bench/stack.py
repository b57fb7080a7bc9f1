"""The platform that is measured: servers as `headrace up` starts them, and services on them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from pydantic import SecretStr

from headrace_core.runtime.settings import Settings
from headrace_standalone import services
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.port import free_port
from headrace_standalone.embedded.postgres import EmbeddedPostgres
from headrace_standalone.embedded.valkey import EmbeddedValkey
from headrace_standalone.log_file import LogFile
from headrace_standalone.migration import migrate
from headrace_standalone.program import Program
from headrace_standalone.supervised import Supervised

# What a service gives calls that are still open when it ends, and how long it may take in all, in
# seconds. Nothing that it does then is measured, and the clients of ten thousand streams are gone.
_CALLS_GRACE = 1.0
_GRACE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service that serves."""

    address: str
    pid: int


class Stack:
    """A migrated PostgreSQL and a Valkey, and whichever services a measurement starts on them.

    Args:
        folder: holds the data; we hold it.
        environment: for the services.
        servers: the processes of the servers that are ours, by their names; that of PostgreSQL has
            one more for each connection.

    Attributes:
        settings: for what the benchmark itself does with the store.
        folder: holds data and logs.
        servers: see above.
    """

    def __init__(
        self,
        *,
        folder: DataFolder,
        environment: Mapping[str, str],
        servers: Mapping[str, int],
    ) -> None:
        self.settings = Settings(
            database_url=SecretStr(environment["HEADRACE_DATABASE_URL"]),
            redis_url=SecretStr(environment["HEADRACE_REDIS_URL"]),
        )
        self.servers = servers
        self.folder = folder
        self._environment = environment

    @classmethod
    @asynccontextmanager
    async def running(
        cls, *, database_url: str | None = None, redis_url: str | None = None
    ) -> AsyncIterator[Stack]:
        """Starts the servers in a folder of their own, which is deleted afterwards.

        PostgreSQL syncs every commit to the disk, as `headrace up` has it do.

        Args:
            database_url: of a server to use instead of one of our own.
            redis_url: the same.
        """
        async with AsyncExitStack() as running:
            folder = running.enter_context(DataFolder.temporary())
            servers = {}
            if database_url is None:
                postgres = await asyncio.to_thread(EmbeddedPostgres, folder=folder)
                database_url = postgres.url
                servers["postgresql"] = await running.enter_async_context(
                    _running(postgres.program(), folder)
                )
            if redis_url is None:
                valkey = EmbeddedValkey(folder=folder)
                redis_url = valkey.url
                servers["valkey"] = await running.enter_async_context(
                    _running(valkey.program(), folder)
                )
            # What a developer has set for a stack of their own is not for the benchmark.
            environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
            environment |= {
                "HEADRACE_DATABASE_URL": database_url,
                "HEADRACE_REDIS_URL": redis_url,
                "HEADRACE_SHUTDOWN_GRACE": str(_CALLS_GRACE),
            }
            stack = cls(folder=folder, environment=environment, servers=servers)
            await stack.migrate()
            yield stack

    async def migrate(self, environment: Mapping[str, str] | None = None) -> None:
        """Brings a database to the schema of this version.

        Args:
            environment: what differs from the stack's own, such as the database.
        """
        log = LogFile(self.folder.logs / "migrate.log")
        try:
            await migrate(environment={**self._environment, **(environment or {})}, log=log)
        finally:
            log.close()

    @asynccontextmanager
    async def gateway(self, environment: Mapping[str, str] | None = None) -> AsyncIterator[Service]:
        """A fresh gateway for the length of the block.

        Args:
            environment: what differs from the stack's own.
        """
        async with self._serving(services.gateway, environment) as service:
            yield service

    @asynccontextmanager
    async def scheduler(
        self, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[Service]:
        """A fresh scheduler, likewise."""
        async with self._serving(services.scheduler, environment) as service:
            yield service

    @asynccontextmanager
    async def worker(
        self, number: int = 1, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[Service]:
        """A fresh worker, likewise.

        Args:
            number: names it.
            environment: what differs from the stack's own.
        """
        async with self._serving(partial(services.worker, number=number), environment) as service:
            yield service

    @asynccontextmanager
    async def _serving(
        self, make: Callable[..., Program], environment: Mapping[str, str] | None
    ) -> AsyncIterator[Service]:
        address = f"127.0.0.1:{free_port()}"
        program = make(
            address=address, environment={**self._environment, **(environment or {})}, grace=_GRACE
        )
        async with _running(program, self.folder) as pid:
            yield Service(address=address, pid=pid)


@asynccontextmanager
async def _running(program: Program, folder: DataFolder) -> AsyncIterator[int]:
    """Runs a program for the length of the block; yields its process id."""
    supervised = Supervised(
        program, log=LogFile(folder.logs / f"{program.name}.log"), announce=_announce
    )
    try:
        await supervised.start()
        assert supervised.pid is not None
        yield supervised.pid
    finally:
        await supervised.stop()


def _announce(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")

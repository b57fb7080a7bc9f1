"""The platform under test: servers with the `headrace up` settings, and the services."""

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
from headrace_standalone.supervised import SupervisedProgram

# Seconds that a stopping service gives its open calls, and the longest shutdown. Short values are
# safe: the shutdown is not measured, and all clients have disconnected.
_CALLS_GRACE_PERIOD_S = 1.0
_SHUTDOWN_GRACE_PERIOD_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service."""

    address: str
    pid: int


class Stack:
    """A PostgreSQL with the schema, a Valkey, and the services that a measurement starts.

    Args:
        folder: the data folder; the stack holds its lock.
        environment: the environment variables of the services.
        servers: the process ids of the servers that the stack started, by name. PostgreSQL has an
            additional child process per connection.

    Attributes:
        settings: the settings for direct access to the store.
        folder: the folder with data and logs.
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
        """Start the servers in a temporary folder for the duration of the block.

        PostgreSQL syncs every commit to disk, as under `headrace up`.

        Args:
            database_url: an existing PostgreSQL server to use; None starts one.
            redis_url: an existing Valkey or Redis server to use; None starts one.
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
            # Settings that the user made for another stack must not affect the benchmark.
            environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
            environment |= {
                "HEADRACE_DATABASE_URL": database_url,
                "HEADRACE_REDIS_URL": redis_url,
                # Each reader has one connection for all its streams.
                "HEADRACE_MAX_CONCURRENT_STREAMS": "20000",
                "HEADRACE_SHUTDOWN_GRACE": str(_CALLS_GRACE_PERIOD_S),
            }
            stack = cls(folder=folder, environment=environment, servers=servers)
            await stack.migrate()
            yield stack

    async def migrate(self, environment: Mapping[str, str] | None = None) -> None:
        """Migrate a database to this version's schema.

        Args:
            environment: variables that override those of the stack, such as the database URL.
        """
        log = LogFile(self.folder.logs / "migrate.log")
        try:
            await migrate(environment={**self._environment, **(environment or {})}, log=log)
        finally:
            log.close()

    @asynccontextmanager
    async def gateway(self, environment: Mapping[str, str] | None = None) -> AsyncIterator[Service]:
        """Run a fresh gateway for the duration of the block.

        Args:
            environment: variables that override those of the stack.
        """
        async with self._serving(services.gateway, environment) as service:
            yield service

    @asynccontextmanager
    async def scheduler(
        self, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[Service]:
        """Run a fresh scheduler for the duration of the block; see `gateway`."""
        async with self._serving(services.scheduler, environment) as service:
            yield service

    @asynccontextmanager
    async def worker(
        self, number: int = 1, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[Service]:
        """Run a fresh worker for the duration of the block.

        Args:
            number: the number in the worker's name.
            environment: variables that override those of the stack.
        """
        async with self._serving(partial(services.worker, number=number), environment) as service:
            yield service

    @asynccontextmanager
    async def web(
        self, gateway: Service, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[Service]:
        """Run a fresh web service on a gateway for the duration of the block; see `gateway`."""
        target = {"HEADRACE_TARGET": gateway.address}
        async with self._serving(services.web, {**target, **(environment or {})}) as service:
            yield service

    @asynccontextmanager
    async def _serving(
        self, make: Callable[..., Program], environment: Mapping[str, str] | None
    ) -> AsyncIterator[Service]:
        address = f"127.0.0.1:{free_port()}"
        program = make(
            address=address,
            environment={**self._environment, **(environment or {})},
            grace=_SHUTDOWN_GRACE_PERIOD_S,
        )
        async with _running(program, self.folder) as pid:
            yield Service(address=address, pid=pid)


@asynccontextmanager
async def _running(program: Program, folder: DataFolder) -> AsyncIterator[int]:
    """Run a program for the duration of the block and yield its process id."""
    supervised = SupervisedProgram(
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

"""The platform that is measured: servers as `headrace up` starts them, and a gateway on them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from headrace_core.settings import Settings
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
        postgres_pid: the process of the server, which has one more for each connection.
        valkey_pid: the process of the server.

    Attributes:
        settings: for what the benchmark itself does with the store.
    """

    def __init__(
        self,
        *,
        folder: DataFolder,
        environment: Mapping[str, str],
        postgres_pid: int,
        valkey_pid: int,
    ) -> None:
        self.settings = Settings(
            database_url=SecretStr(environment["HEADRACE_DATABASE_URL"]),
            redis_url=SecretStr(environment["HEADRACE_REDIS_URL"]),
        )
        self.postgres_pid = postgres_pid
        self.valkey_pid = valkey_pid
        self._folder = folder
        self._environment = environment

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Stack]:
        """Starts the servers in a folder of their own, which is deleted afterwards.

        PostgreSQL syncs every commit to the disk, as `headrace up` has it do.
        """
        with DataFolder.temporary() as folder:
            postgres = await asyncio.to_thread(EmbeddedPostgres, folder=folder)
            valkey = EmbeddedValkey(folder=folder)
            # What a developer has set for a stack of their own is not for the benchmark.
            environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
            environment |= {
                "HEADRACE_DATABASE_URL": postgres.url,
                "HEADRACE_REDIS_URL": valkey.url,
                "HEADRACE_SHUTDOWN_GRACE": str(_CALLS_GRACE),
            }
            async with (
                _running(postgres.program(), folder) as postgres_pid,
                _running(valkey.program(), folder) as valkey_pid,
            ):
                log = LogFile(folder.logs / "migrate.log")
                try:
                    await migrate(environment=environment, log=log)
                finally:
                    log.close()
                yield cls(
                    folder=folder,
                    environment=environment,
                    postgres_pid=postgres_pid,
                    valkey_pid=valkey_pid,
                )

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[Service]:
        """A fresh gateway for the length of the block."""
        address = f"127.0.0.1:{free_port()}"
        program = services.gateway(address=address, environment=self._environment, grace=_GRACE)
        async with _running(program, self._folder) as pid:
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

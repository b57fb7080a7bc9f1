"""Stages: a contestant set up afresh for one measurement."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from bench.compare.contestant import Contestant
from bench.compare.counters import Counters
from bench.compare.databases import Databases
from bench.compare.janitor import Janitor
from bench.compare.process import PeerProcess
from bench.stack import Stack
from bench.usage import CpuMeter
from headrace_standalone.embedded.port import free_port

_ROOT: Final = Path(__file__).resolve().parents[2]
_PATH: Final = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
_SETUP_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The resources that all contestants share.

    Args:
        stack: the servers and the Headrace services.
        databases: the databases on the stack's server.
        janitor: kills the processes of contestants if the harness is killed.
        pythons: the interpreters by contestant name.
        gateways: the number of Headrace gateways.
    """

    stack: Stack
    databases: Databases
    janitor: Janitor
    pythons: Mapping[str, Path]
    gateways: int = 1


class Stage:
    """A contestant with its database and processes, ready for a measurement.

    Attributes:
        contestant: the contestant.
        counters: the counters of jobs handled by its workers.
        control: the control process, which submits jobs.
        processes: the ids of all running processes of the contestant and its servers, by name.
    """

    def __init__(
        self,
        resources: Resources,
        contestant: Contestant,
        *,
        mode: str,
        database_url: str,
        folder: Path,
    ) -> None:
        self.contestant = contestant
        self.counters = Counters(folder)
        self.control: PeerProcess
        self.processes: dict[str, list[int]] = {
            name: [pid]
            for name, pid in resources.stack.servers.items()
            if name in contestant.servers
        }
        self._resources = resources
        self._targets: list[str] = []
        self._controls = 0
        redis_url = resources.stack.settings.redis_url.get_secret_value()
        settings = contestant.environment.get(mode, {})
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HEADRACE_", "BENCH_"))},
            "PYTHONPATH": _PATH,
            "BENCH_DATABASE_URL": database_url,
            "BENCH_REDIS_URL": redis_url,
            "BENCH_MODE": mode,
            "BENCH_COUNTER": str(self.counters.prefix),
            **settings,
        }
        # The stack sets the other variables of the Headrace services.
        self._services = {
            "HEADRACE_DATABASE_URL": database_url,
            "PYTHONPATH": _PATH,
            "BENCH_COUNTER": str(self.counters.prefix),
            "HEADRACE_HANDLERS": "bench.peers.headrace.handlers",
            **settings,
        }

    @classmethod
    @asynccontextmanager
    async def of(
        cls, resources: Resources, contestant: Contestant, *, mode: str, database_url: str = ""
    ) -> AsyncIterator[Stage]:
        """Set up a contestant for the duration of the block: its schema and all processes except
        workers.

        Args:
            resources: the common resources.
            contestant: the contestant.
            mode: `throughput` or `latency`.
            database_url: the database to use; empty for a fresh one.
        """
        async with AsyncExitStack() as running:
            folder = running.enter_context(_counters())
            if not database_url:
                database_url = await running.enter_async_context(
                    resources.databases.fresh(migrated=contestant.is_headrace)
                )
            redis = Redis.from_url(resources.stack.settings.redis_url.get_secret_value())
            await redis.flushall()
            await redis.aclose()
            await resources.databases.write_dirty_pages()
            stage = cls(
                resources, contestant, mode=mode, database_url=database_url, folder=Path(folder)
            )
            if contestant.is_headrace:
                await stage._start_services(running)
            if contestant.server:
                await stage._start_server(running)
            stage.control = await running.enter_async_context(stage.another_control())
            await stage.control.ask("setup", timeout=_SETUP_TIMEOUT_S)
            yield stage

    def meter(self) -> CpuMeter:
        """Return a CPU time meter for all running processes."""
        return CpuMeter(self.processes)

    async def wal_position(self) -> int:
        """Return the number of bytes in the write-ahead log so far."""
        return await self._resources.databases.wal_position()

    @asynccontextmanager
    async def another_control(self) -> AsyncIterator[PeerProcess]:
        """Start one more client process; the clients use the gateways in turn."""
        targets, first = self._targets, self._controls % max(1, len(self._targets))
        self._controls += 1
        environment = {"BENCH_TARGET": ",".join(targets[first:] + targets[:first])}
        async with self._process("control", "client", environment) as control:
            yield control

    @asynccontextmanager
    async def workers(
        self, count: int, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[None]:
        """Run workers for the duration of the block.

        Args:
            count: the number of worker processes.
            environment: additional environment variables.
        """
        async with AsyncExitStack() as running:
            await asyncio.gather(
                *(
                    running.enter_async_context(self._worker(number, environment or {}))
                    for number in range(1, count + 1)
                )
            )
            yield

    @asynccontextmanager
    async def _worker(self, number: int, environment: Mapping[str, str]) -> AsyncIterator[None]:
        if self.contestant.is_headrace:
            settings = {**self._services, **environment}
            async with self._resources.stack.worker(number, settings) as service:
                with self._recording_pid("worker", service.pid):
                    yield
        else:
            async with self._process("worker", "worker", environment) as worker:
                await worker.wait_until_ready()
                yield

    async def _start_services(self, running: AsyncExitStack) -> None:
        stack = self._resources.stack
        gateways = [stack.gateway(self._services) for _ in range(self._resources.gateways)]
        scheduler, *served = await asyncio.gather(
            running.enter_async_context(stack.scheduler(self._services)),
            *(running.enter_async_context(gateway) for gateway in gateways),
        )
        running.enter_context(self._recording_pid("scheduler", scheduler.pid))
        for gateway in served:
            running.enter_context(self._recording_pid("gateway", gateway.pid))
            self._targets.append(gateway.address)

    async def _start_server(self, running: AsyncExitStack) -> None:
        self._targets.append(f"127.0.0.1:{free_port()}")
        environment = {"BENCH_TARGET": self._targets[0]}
        server = await running.enter_async_context(self._process("server", "server", environment))
        await server.wait_until_ready()

    @asynccontextmanager
    async def _process(
        self, role: str, name: str, environment: Mapping[str, str]
    ) -> AsyncIterator[PeerProcess]:
        async with PeerProcess.running(
            role,
            python=self._resources.pythons[self.contestant.name],
            program=self.contestant.folder / "peer.py",
            environment={**self._environment, **environment},
            log=self._resources.stack.folder.logs / f"{self.contestant.name}.{role}.log",
            janitor=self._resources.janitor,
        ) as process:
            with self._recording_pid(name, process.pid):
                yield process

    @contextmanager
    def _recording_pid(self, name: str, pid: int) -> Iterator[None]:
        self.processes.setdefault(name, []).append(pid)
        try:
            yield
        finally:
            self.processes[name].remove(pid)


@contextmanager
def _counters() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="headrace-count-") as folder:
        yield folder

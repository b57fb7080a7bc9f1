"""The platform as real processes: servers, services, and the links between them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil
from pydantic import SecretStr

from faults import ledger
from faults.clock import Clock, forget
from faults.disk import Disk, disk
from faults.metrics import read_metric
from faults.valkey import Valkey
from headrace_core.runtime.settings import Settings
from headrace_core.store.migrate import migrate
from headrace_standalone import services
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.port import free_port
from headrace_standalone.embedded.postgres import EmbeddedPostgres
from headrace_standalone.embedded.valkey import EmbeddedValkey
from headrace_standalone.program import Program
from support.proxy import Proxy
from support.server import Server
from support.settings import environment_of

_ROOT = Path(__file__).resolve().parent.parent

# By these a link tells its connections apart: the ones over which wake-ups come.
LISTEN = b"LISTEN "
SUBSCRIBE = b"SUBSCRIBE"

# How long a service has to finish what it is doing, in seconds.
_GRACE = 5.0

# How often a supervisor looks whether its process lives, and for how long it lets it rest before it
# starts it again, in seconds.
_LOOK_S = 0.1
_RESTART_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which processes there are.

    Args:
        links: the kinds of processes that reach their servers through links which can fail:
            `gateway`, `scheduler`, `worker`, and `client` for the way to the gateways.
        statement: text of the statements whose answers the links to PostgreSQL can lose.
        settings: changes to the defaults, by the names of `Settings`.
        settings_of: further changes, by the names of services: `{"worker-1": {"worker_slots": 5}}`.
        clocks: whether each service has a clock of its own, `service.clock`, that can be wrong.
        disk_mib: how large the disk of PostgreSQL is, `cluster.disk`; None for the machine's own.
    """

    gateways: int = 2
    schedulers: int = 2
    workers: int = 3
    links: frozenset[str] = frozenset()
    statement: bytes = b""
    settings: Mapping[str, object] = field(default_factory=dict)
    settings_of: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    clocks: bool = False
    disk_mib: int | None = None


class Service:
    """One process of the platform.

    Attributes:
        name: `gateway-1`, `worker-3`.
        address: where it serves.
        metrics_url: where its metrics are.
        postgres, redis, entrance: its links; None where the plan has none.
        clock: its wall clock; None where the plan has none.
        restarts: how often it was started again since it had died.
    """

    def __init__(self, server: Server, *, name: str, address: str, metrics_url: str) -> None:
        self._server = server
        self.name = name
        self.address = address
        self.metrics_url = metrics_url
        self.postgres: Proxy | None = None
        self.redis: Proxy | None = None
        self.entrance: Proxy | None = None
        self.clock: Clock | None = None
        self.restarts = 0

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._server.running

    @property
    def target(self) -> str:
        """Where clients reach it."""
        return self.entrance.address if self.entrance is not None else self.address

    @property
    def links(self) -> dict[str, Proxy]:
        """Its links, by what they are called: `worker-1 to redis`, `clients to gateway-2`."""
        named = {
            f"{self.name} to postgresql": self.postgres,
            f"{self.name} to redis": self.redis,
            f"clients to {self.name}": self.entrance,
        }
        return {name: link for name, link in named.items() if link is not None}

    def launch(self) -> None:
        """Starts it."""
        # Not in a thread: the process is tied to the thread that starts it.
        self._server.launch()

    async def serving(self) -> None:
        """Waits until it serves."""
        await self._server.serving()

    async def start(self) -> None:
        """Starts it and waits until it serves."""
        self.launch()
        await self.serving()

    async def terminate(self) -> int:
        """Tells it to end, and waits until it has; returns its exit code."""
        return await asyncio.to_thread(self._server.terminate, within=_GRACE + 15)

    async def kill(self) -> None:
        """Kills it."""
        pid = self.pid if self.clock is not None and self._server.running else None
        await asyncio.to_thread(self._server.kill)
        if pid is not None:
            forget(pid)

    def stand_still(self) -> None:
        """Stops it where it is: it keeps its connections, and answers nobody."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets it go on as if nothing had been."""
        os.kill(self.pid, signal.SIGCONT)

    async def supervise(self) -> None:
        """Starts it again whenever it has died, as systemd or Kubernetes do; for ever.

        What a scenario ends by `kill` or `terminate` is left to the scenario.
        """
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._server.died:
                await asyncio.sleep(_RESTART_S)
                # Its children go with it.
                await self.kill()
                self.launch()
                self.restarts += 1

    def memory(self) -> float:
        """Its resident memory in MiB."""
        return float(psutil.Process(self.pid).memory_info().rss) / 2**20

    def files(self) -> int:
        """How many file descriptors it has open."""
        return int(psutil.Process(self.pid).num_fds())

    async def metric(self, name: str, **labels: str) -> float:
        """The value of one of its metrics, the sum of those with these labels.

        Raises:
            KeyError: it has none of that name.
        """
        return await read_metric(self.metrics_url, name, **labels)


class Postgres:
    """The PostgreSQL server, to crash it, to start it again, and to make it a standby."""

    def __init__(self, server: Server, url: str, data: Path) -> None:
        self._server = server
        self._data = data
        self.url = url

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._server.running

    async def crash(self) -> None:
        """Ends it as `pg_ctl stop -m immediate` does: without a checkpoint, sessions cut off."""
        await asyncio.to_thread(self._server.terminate, within=30, signum=signal.SIGQUIT)

    async def start(self) -> None:
        """Starts it again, and waits until it has recovered and serves."""
        await asyncio.to_thread(self._server.stop)
        self._server.launch()
        await self._server.serving()

    async def demote(self) -> None:
        """Stop it and start it as a standby, as a failover does with the old primary."""
        await asyncio.to_thread(self._server.stop)
        (self._data / "standby.signal").touch()
        self._server.launch()
        await self._server.serving()

    async def promote(self) -> None:
        """Make the standby a primary."""
        connection = await asyncpg.connect(self.url, timeout=10)
        try:
            assert await connection.fetchval("SELECT pg_promote()")
        finally:
            connection.terminate()


class Cluster:
    """All processes, while they run.

    Attributes:
        settings: how to reach the servers, past all links.
        logs: the folder of the processes' logs.
        ledger: what the handlers write down.
        disk: what PostgreSQL's data lies on; None for the machine's own.
    """

    def __init__(self, folder: DataFolder, plan: Plan, disk: Disk | None) -> None:
        self.plan = plan
        self.logs = folder.logs
        self.ledger = ledger.Ledger(folder.path / "ledger.sqlite")
        self._ledger_path = folder.path / "ledger.sqlite"
        self._clocks = folder.path / "clocks"
        self._clocks.mkdir()
        self.disk = disk
        place = folder if disk is None else DataFolder(disk.path)
        postgres = EmbeddedPostgres(folder=place)
        valkey = EmbeddedValkey(folder=folder)
        self.settings = Settings.model_validate(
            {
                "database_url": SecretStr(postgres.url),
                "redis_url": SecretStr(valkey.url),
                "log_format": "json",
                "shutdown_grace": _GRACE,
                **plan.settings,
            }
        )
        self.postgres = Postgres(
            self._server(postgres.program()), postgres.url, place.path / "postgres"
        )
        self.valkey = Valkey(self._server(valkey.program()), valkey.url, folder.path / "valkey")
        self.gateways: list[Service] = []
        self.schedulers: list[Service] = []
        self.workers: list[Service] = []

    @property
    def services(self) -> list[Service]:
        """All three kinds."""
        return [*self.gateways, *self.schedulers, *self.workers]

    @property
    def targets(self) -> list[str]:
        """Where clients reach the gateways."""
        return [gateway.target for gateway in self.gateways]

    def _server(self, program: Program) -> Server:
        return Server(program, log=self.logs / f"{program.name}.log")

    async def _start(self, ending: AsyncExitStack) -> None:
        ending.callback(self.ledger.close)
        for server in (self.postgres._server, self.valkey.server):
            # Killed, PostgreSQL would leave sessions behind that still write to the folder.
            ending.push_async_callback(asyncio.to_thread, server.stop)
            server.launch()
            await server.serving()
        await asyncio.to_thread(migrate, self.settings)
        for kind, count, all_of_kind in (
            ("gateway", self.plan.gateways, self.gateways),
            ("scheduler", self.plan.schedulers, self.schedulers),
            ("worker", self.plan.workers, self.workers),
        ):
            for number in range(1, count + 1):
                service = await self._make(kind, number, ending)
                all_of_kind.append(service)
                ending.push_async_callback(service.kill)
                service.launch()
        await asyncio.gather(*(service.serving() for service in self.services))

    async def _make(self, kind: str, number: int, ending: AsyncExitStack) -> Service:
        name, address = f"{kind}-{number}", f"127.0.0.1:{free_port()}"
        environment = self._environment(self.plan.settings_of.get(name, {}))
        metrics = f"127.0.0.1:{free_port()}"
        environment[f"HEADRACE_{kind.upper()}_METRICS_ADDRESS"] = metrics
        postgres = redis = entrance = None
        if kind in self.plan.links:
            postgres = await _link(
                self.settings.database_url, LISTEN, ending, statement=self.plan.statement
            )
            redis = await _link(self.settings.redis_url, SUBSCRIBE, ending)
            environment["HEADRACE_DATABASE_URL"] = postgres.url
            environment["HEADRACE_REDIS_URL"] = redis.url
        clock = None
        if self.plan.clocks:
            clock = Clock(self._clocks / name)
            environment |= clock.environment
        grace = _GRACE
        if kind == "gateway":
            program = services.gateway(address=address, environment=environment, grace=grace)
            if "client" in self.plan.links:
                entrance = await _link(SecretStr(f"grpc://{address}"), b"", ending)
        elif kind == "scheduler":
            program = services.scheduler(address=address, environment=environment, grace=grace)
        else:
            program = services.worker(
                number=number,
                address=address,
                environment=environment,
                grace=grace + self.settings.worker_cancel_grace,
            )
        server = Server(program, log=self.logs / f"{name}.log")
        service = Service(
            server, name=name, address=address, metrics_url=f"http://{metrics}/metrics"
        )
        service.postgres, service.redis, service.entrance = postgres, redis, entrance
        service.clock = clock
        return service

    def _environment(self, changes: Mapping[str, object]) -> dict[str, str]:
        paths = filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])
        return environment_of(
            self.settings.model_copy(update=dict(changes)),
            HEADRACE_HANDLERS="faults.handlers,faults.poison,faults.rude",
            HEADRACE_HTTP_ALLOWED_HOSTS="127.0.0.1",
            PYTHONPATH=os.pathsep.join(paths),
            **{ledger.VARIABLE: str(self._ledger_path)},
        )


async def _link(
    url: SecretStr, mark: bytes, ending: AsyncExitStack, *, statement: bytes = b""
) -> Proxy:
    link = Proxy(url.get_secret_value(), marks=(mark,) if mark else (), statement=statement)
    await link.start()
    ending.push_async_callback(link.cut)
    return link


@asynccontextmanager
async def running(plan: Plan) -> AsyncIterator[Cluster]:
    """Starts everything; however the block ends, every process is gone behind it."""
    with DataFolder.temporary() as folder:
        async with AsyncExitStack() as ending:
            mounted = None
            if plan.disk_mib is not None:
                mounted = ending.enter_context(disk(folder.path / "disk", mib=plan.disk_mib))
            cluster = Cluster(folder, plan, mounted)
            await cluster._start(ending)
            yield cluster

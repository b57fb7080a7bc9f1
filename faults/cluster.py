"""The platform as real processes: servers, services and the links between them."""

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
from faults.clock import Clock, clean_up
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
from support.issuer import LocalIssuer, running_issuer
from support.proxy import Proxy
from support.server import Server
from support.settings import environment_of

_ROOT = Path(__file__).resolve().parent.parent

# Statements by which a link recognizes the connections that receive wake-ups.
LISTEN = b"LISTEN "
SUBSCRIBE = b"SUBSCRIBE"

# The shutdown grace period of a service, in seconds.
_GRACE_PERIOD_S = 5.0

# The polling interval of a supervisor, and its delay before a restart, in seconds.
_POLL_S = 0.1
_RESTART_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The processes of a cluster.

    Args:
        links: the kinds of processes that reach their servers through links that can fail:
            `gateway`, `scheduler`, `worker`, and `client` for the links to the gateways.
        statement: a part of the SQL statements whose responses the PostgreSQL links can lose.
        settings: changes to the defaults, by `Settings` field.
        settings_by_service: further changes, by service: `{"worker-1": {"worker_slots": 5}}`.
        issuer: fields of an issuer of tokens that the gateways accept, `cluster.issuer`; None for
            no issuer. Its link, `cluster.issuer_link`, can fail.
        clocks: give each service its own wall clock, `service.clock`, that can be wrong.
        disk_mib: size of the PostgreSQL disk (`cluster.disk`) in MiB; None for the machine's disk.
    """

    gateways: int = 2
    schedulers: int = 2
    workers: int = 3
    links: frozenset[str] = frozenset()
    statement: bytes = b""
    settings: Mapping[str, object] = field(default_factory=dict)
    settings_by_service: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    issuer: Mapping[str, object] | None = None
    clocks: bool = False
    disk_mib: int | None = None


class Service:
    """One process of the platform.

    Attributes:
        name: `gateway-1`, `worker-3`.
        address: the address at which the service listens.
        metrics_url: the URL of its metrics.
        postgres, redis, client_link: the links of the process; None if the plan has no such links.
        clock: the wall clock of the process; None if the plan has no clocks.
        restarts: the number of restarts by the supervisor.
    """

    def __init__(self, server: Server, *, name: str, address: str, metrics_url: str) -> None:
        self._server = server
        self.name = name
        self.address = address
        self.metrics_url = metrics_url
        self.postgres: Proxy | None = None
        self.redis: Proxy | None = None
        self.client_link: Proxy | None = None
        self.clock: Clock | None = None
        self.restarts = 0

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def running(self) -> bool:
        """True until the process ends by itself."""
        return self._server.running

    @property
    def target(self) -> str:
        """The address for clients."""
        return self.client_link.address if self.client_link is not None else self.address

    @property
    def links(self) -> dict[str, Proxy]:
        """The links by name: `worker-1 to redis`, `clients to gateway-2`."""
        named = {
            f"{self.name} to postgresql": self.postgres,
            f"{self.name} to redis": self.redis,
            f"clients to {self.name}": self.client_link,
        }
        return {name: link for name, link in named.items() if link is not None}

    def launch(self) -> None:
        """Start the process."""
        # Not in a thread: the process would end with the thread that started it.
        self._server.launch()

    async def serving(self) -> None:
        """Wait until the service serves."""
        await self._server.serving()

    async def start(self) -> None:
        """Start the process and wait until it serves."""
        self.launch()
        await self.serving()

    async def terminate(self) -> int:
        """Send SIGTERM, wait for the end of the process and return its exit code."""
        return await asyncio.to_thread(self._server.terminate, within=_GRACE_PERIOD_S + 15)

    async def kill(self) -> None:
        """Kill the process."""
        pid = self.pid if self.clock is not None and self._server.running else None
        await asyncio.to_thread(self._server.kill)
        if pid is not None:
            clean_up(pid)

    def suspend(self) -> None:
        """Suspend the process; its connections stay open, but it does not respond."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the suspended process."""
        os.kill(self.pid, signal.SIGCONT)

    async def supervise(self) -> None:
        """Restart the process whenever it dies, as systemd or Kubernetes do, until cancelled.

        A process that the scenario ends with `kill` or `terminate` is not restarted.
        """
        while True:
            await asyncio.sleep(_POLL_S)
            if self._server.ended_unexpectedly:
                await asyncio.sleep(_RESTART_S)
                # Kill its children too.
                await self.kill()
                self.launch()
                self.restarts += 1

    def memory_mib(self) -> float:
        """Return the resident memory in MiB."""
        return float(psutil.Process(self.pid).memory_info().rss) / 2**20

    def open_files(self) -> int:
        """Return the number of open file descriptors."""
        return int(psutil.Process(self.pid).num_fds())

    async def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric, summed over the samples with these labels.

        Raises:
            KeyError: no sample matches.
        """
        return await read_metric(self.metrics_url, name, **labels)


class Postgres:
    """The PostgreSQL server, which a scenario can crash, start, demote and promote."""

    def __init__(self, server: Server, url: str, data: Path) -> None:
        self._server = server
        self._data = data
        self.url = url

    @property
    def running(self) -> bool:
        """True until the process ends by itself."""
        return self._server.running

    async def crash(self) -> None:
        """Stop the server without a checkpoint, as `pg_ctl stop -m immediate` does."""
        await asyncio.to_thread(self._server.terminate, within=30, signum=signal.SIGQUIT)

    async def start(self) -> None:
        """Start the server, and wait until it has recovered and serves."""
        await asyncio.to_thread(self._server.stop)
        self._server.launch()
        await self._server.serving()

    async def demote(self) -> None:
        """Restart the server as a standby, as happens to the old primary in a failover."""
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
    """All processes of a running platform.

    Attributes:
        settings: the settings with the servers' own addresses, without links.
        logs: the folder with the logs of the processes.
        ledger: the record of started attempts.
        disk: the PostgreSQL disk; None if PostgreSQL uses the machine's disk.
        issuer, issuer_link: the issuer of tokens and the link to it; None without an issuer.
    """

    issuer: LocalIssuer | None = None
    issuer_link: Proxy | None = None

    def __init__(self, folder: DataFolder, plan: Plan, disk: Disk | None) -> None:
        self.plan = plan
        self.logs = folder.logs
        self.ledger = ledger.Ledger(folder.path / "ledger.sqlite")
        self._ledger_path = folder.path / "ledger.sqlite"
        self._clocks = folder.path / "clocks"
        self._clocks.mkdir()
        self.disk = disk
        postgres_folder = folder if disk is None else DataFolder(disk.path)
        postgres = EmbeddedPostgres(folder=postgres_folder)
        valkey = EmbeddedValkey(folder=folder)
        self.settings = Settings.model_validate(
            {
                "database_url": SecretStr(postgres.url),
                "redis_url": SecretStr(valkey.url),
                "log_format": "json",
                "shutdown_grace": _GRACE_PERIOD_S,
                **plan.settings,
            }
        )
        self.postgres = Postgres(
            self._server(postgres.program()), postgres.url, postgres_folder.path / "postgres"
        )
        self.valkey = Valkey(self._server(valkey.program()), valkey.url, folder.path / "valkey")
        self.gateways: list[Service] = []
        self.schedulers: list[Service] = []
        self.workers: list[Service] = []

    @property
    def services(self) -> list[Service]:
        """All gateways, schedulers and workers."""
        return [*self.gateways, *self.schedulers, *self.workers]

    @property
    def targets(self) -> list[str]:
        """The addresses of the gateways for clients."""
        return [gateway.target for gateway in self.gateways]

    def _server(self, program: Program) -> Server:
        return Server(program, log=self.logs / f"{program.name}.log")

    async def _start(self, cleanup: AsyncExitStack) -> None:
        cleanup.callback(self.ledger.close)
        if self.plan.issuer is not None:
            await self._start_issuer(self.plan.issuer, cleanup)
        for server in (self.postgres._server, self.valkey.server):
            # Stop PostgreSQL instead of killing it: its sessions would still write to the folder.
            cleanup.push_async_callback(asyncio.to_thread, server.stop)
            server.launch()
            await server.serving()
        await asyncio.to_thread(migrate, self.settings)
        for kind, count, all_of_kind in (
            ("gateway", self.plan.gateways, self.gateways),
            ("scheduler", self.plan.schedulers, self.schedulers),
            ("worker", self.plan.workers, self.workers),
        ):
            for number in range(1, count + 1):
                service = await self._make_service(kind, number, cleanup)
                all_of_kind.append(service)
                cleanup.push_async_callback(service.kill)
                service.launch()
        await asyncio.gather(*(service.serving() for service in self.services))

    async def _start_issuer(self, fields: Mapping[str, object], cleanup: AsyncExitStack) -> None:
        self.issuer = cleanup.enter_context(running_issuer())
        self.issuer_link = await _start_link(SecretStr(self.issuer.url), b"", cleanup)
        self.issuer.url = f"http://{self.issuer_link.address}"
        self.settings = self.settings.model_copy(update={"issuers": self.issuer.setting(**fields)})

    async def _make_service(self, kind: str, number: int, cleanup: AsyncExitStack) -> Service:
        name, address = f"{kind}-{number}", f"127.0.0.1:{free_port()}"
        environment = self._service_environment(self.plan.settings_by_service.get(name, {}))
        metrics = f"127.0.0.1:{free_port()}"
        environment[f"HEADRACE_{kind.upper()}_METRICS_ADDRESS"] = metrics
        postgres = redis = client_link = None
        if kind in self.plan.links:
            postgres = await _start_link(
                self.settings.database_url, LISTEN, cleanup, statement=self.plan.statement
            )
            redis = await _start_link(self.settings.redis_url, SUBSCRIBE, cleanup)
            environment["HEADRACE_DATABASE_URL"] = postgres.url
            environment["HEADRACE_REDIS_URL"] = redis.url
        clock = None
        if self.plan.clocks:
            clock = Clock(self._clocks / name)
            environment |= clock.environment
        grace = _GRACE_PERIOD_S
        if kind == "gateway":
            program = services.gateway(address=address, environment=environment, grace=grace)
            if "client" in self.plan.links:
                client_link = await _start_link(SecretStr(f"grpc://{address}"), b"", cleanup)
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
        service.postgres, service.redis, service.client_link = postgres, redis, client_link
        service.clock = clock
        return service

    def _service_environment(self, changes: Mapping[str, object]) -> dict[str, str]:
        paths = filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])
        return environment_of(
            self.settings.model_copy(update=dict(changes)),
            HEADRACE_HANDLERS="faults.handlers,faults.poison,faults.misbehaving",
            HEADRACE_HTTP_ALLOWED_HOSTS="127.0.0.1",
            PYTHONPATH=os.pathsep.join(paths),
            **{ledger.LEDGER_VARIABLE: str(self._ledger_path)},
        )


async def _start_link(
    url: SecretStr, mark: bytes, cleanup: AsyncExitStack, *, statement: bytes = b""
) -> Proxy:
    link = Proxy(url.get_secret_value(), marks=(mark,) if mark else (), statement=statement)
    await link.start()
    cleanup.push_async_callback(link.cut)
    return link


@asynccontextmanager
async def running(plan: Plan) -> AsyncIterator[Cluster]:
    """Run all processes for the duration of the block; end them even after an error."""
    with DataFolder.temporary() as folder:
        async with AsyncExitStack() as cleanup:
            mounted = None
            if plan.disk_mib is not None:
                mounted = cleanup.enter_context(disk(folder.path / "disk", mib=plan.disk_mib))
            cluster = Cluster(folder, plan, mounted)
            await cluster._start(cleanup)
            yield cluster

"""The services as real processes that a test can suspend, block, end and restart."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace_core.runtime.settings import Settings
from headrace_core.store.grants import Client
from headrace_standalone import services
from headrace_standalone.embedded.port import free_port
from support.proxy import Proxy
from support.roles import settings_of
from support.server import Server
from support.settings import environment_of

_TESTS = Path(__file__).parent.parent


def is_running(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True, slots=True)
class Processes:
    """A gateway, a scheduler and a worker, and their addresses."""

    gateway: Server
    scheduler: Server
    worker: Server
    gateway_address: str
    scheduler_address: str
    worker_address: str

    def addresses(self) -> tuple[str, str, str]:
        """Return the addresses of all processes."""
        return self.gateway_address, self.scheduler_address, self.worker_address

    def servers(self) -> tuple[Server, Server, Server]:
        """Return all processes."""
        return self.gateway, self.scheduler, self.worker


@contextmanager
def three_services(settings: Settings, *, logs: Path) -> Iterator[Processes]:
    """Run a gateway, a scheduler and a worker with the handlers in `support.handlers`."""
    environments = {
        client: _environment(settings, client, HEADRACE_LOG_LEVEL="debug") for client in Client
    }
    grace = settings.shutdown_grace
    gateway, scheduler, worker = _address(), _address(), _address()
    programs = (
        services.gateway(address=gateway, environment=environments[Client.GATEWAY], grace=grace),
        services.scheduler(
            address=scheduler, environment=environments[Client.SCHEDULER], grace=grace
        ),
        services.worker(
            number=1, address=worker, environment=environments[Client.WORKER], grace=grace
        ),
    )
    servers = [Server(program, log=logs / f"{program.name}.log") for program in programs]
    with ExitStack() as ending:
        for server in servers:
            ending.callback(server.stop)
            server.launch()
        for server in servers:
            server.wait_until_serving()
        yield Processes(*servers, gateway, scheduler, worker)


@asynccontextmanager
async def worker_process(
    settings: Settings, folder: Path, *, handlers: str = "support.handlers"
) -> AsyncIterator[Server]:
    """Run a worker for the duration of the block; its log is `worker.log` in `folder`.

    Args:
        settings: the settings of the worker.
        folder: the folder of the log.
        handlers: the module of the handlers.
    """
    program = services.worker(
        number=1,
        address=_address(),
        environment=_environment(
            settings, Client.WORKER, handlers=handlers, HEADRACE_LOG_FORMAT="json"
        ),
        grace=settings.shutdown_grace,
    )
    server = Server(program, log=folder / "worker.log")
    try:
        server.launch()
        await server.serving()
        yield server
    finally:
        await asyncio.to_thread(server.kill)


async def restart(server: Server, by: signal.Signals) -> None:
    """End a process with a signal, and start it again."""
    await asyncio.to_thread(server.terminate, within=60, signum=by)
    # This must not run in a thread, because the process would end with the thread.
    server.launch()
    await asyncio.to_thread(server.wait_until_serving)


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A gateway with its own address, and a proxy that a test can cut."""

    server: Server
    address: str
    proxy: Proxy
    metrics_port: int

    async def restart(self, by: signal.Signals) -> None:
        """End the gateway with a signal, and start it again."""
        await restart(self.server, by)


@asynccontextmanager
async def two_gateways(
    settings: Settings, *, logs: Path
) -> AsyncIterator[tuple[GatewayProcess, GatewayProcess]]:
    """Run two gateways, a scheduler and a worker with the handlers in `support.handlers`."""
    scheduler = _environment(settings, Client.SCHEDULER)
    worker = _environment(settings, Client.WORKER)
    grace = settings.shutdown_grace
    async with AsyncExitStack() as ending:
        gateways = [await _gateway(settings, logs / f"{n}.log", ending) for n in (1, 2)]
        programs = (
            services.scheduler(address=_address(), environment=scheduler, grace=grace),
            services.worker(number=1, address=_address(), environment=worker, grace=grace),
        )
        servers = [
            *(gateway.server for gateway in gateways),
            *(Server(program, log=logs / f"{program.name}.log") for program in programs),
        ]
        for server in servers:
            ending.push_async_callback(asyncio.to_thread, server.stop)
            server.launch()
        await asyncio.gather(*(asyncio.to_thread(server.wait_until_serving) for server in servers))
        one, other = gateways
        yield one, other


@asynccontextmanager
async def gateway_and_web(
    settings: Settings, *, logs: Path
) -> AsyncIterator[tuple[Server, Server, str, str]]:
    """Run a gateway and a web service.

    Yields:
        Both processes, and their addresses.
    """
    gateway, web = _address(), _address()
    grace = settings.shutdown_grace
    programs = (
        services.gateway(
            address=gateway, environment=_environment(settings, Client.GATEWAY), grace=grace
        ),
        services.web(
            address=web,
            environment=_environment(settings, Client.GATEWAY, HEADRACE_TARGET=gateway),
            grace=grace,
        ),
    )
    servers = [Server(program, log=logs / f"{program.name}.log") for program in programs]
    with ExitStack() as ending:
        for server in servers:
            ending.callback(server.stop)
            server.launch()
            await asyncio.to_thread(server.wait_until_serving)
        yield *servers, gateway, web  # type: ignore[misc]


async def _gateway(settings: Settings, log: Path, ending: AsyncExitStack) -> GatewayProcess:
    address, metrics = _address(), _address()
    environment = _environment(settings, Client.GATEWAY, HEADRACE_GATEWAY_METRICS_ADDRESS=metrics)
    grace = settings.shutdown_grace
    program = services.gateway(address=address, environment=environment, grace=grace)
    proxy = Proxy(f"grpc://{address}")
    await proxy.start()
    ending.push_async_callback(proxy.cut)
    port = int(metrics.rpartition(":")[2])
    return GatewayProcess(Server(program, log=log), address, proxy, port)


def _environment(
    settings: Settings, client: Client, *, handlers: str = "support.handlers", **changes: str
) -> dict[str, str]:
    return environment_of(
        settings_of(settings, client),
        HEADRACE_HANDLERS=handlers,
        PYTHONPATH=str(_TESTS),
        **changes,
    )


def _address() -> str:
    return f"127.0.0.1:{free_port()}"

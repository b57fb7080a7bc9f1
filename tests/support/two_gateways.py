"""The platform as real processes, with two gateways that a test can restart."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace_core.runtime.settings import Settings
from headrace_standalone import services
from headrace_standalone.embedded.port import free_port
from support.proxy import Proxy
from support.server import Server
from support.settings import environment_of

_TESTS = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A gateway with its own address, and a proxy that a test can cut."""

    server: Server
    address: str
    proxy: Proxy
    metrics_port: int

    async def restart(self, by: signal.Signals) -> None:
        """End the gateway by a signal, and start it again."""
        await asyncio.to_thread(self.server.terminate, within=60, signum=by)
        # Launch outside a thread, since the process would end with its thread.
        self.server.launch()
        await asyncio.to_thread(self.server.wait_until_serving)


@asynccontextmanager
async def two_gateways(
    settings: Settings, *, logs: Path
) -> AsyncIterator[tuple[GatewayProcess, GatewayProcess]]:
    """Run two gateways, a scheduler and a worker with the handlers in `support.handlers`."""
    environment = environment_of(
        settings, HEADRACE_HANDLERS="support.handlers", PYTHONPATH=str(_TESTS)
    )
    grace = settings.shutdown_grace
    async with AsyncExitStack() as ending:
        gateways = [await _gateway(environment, grace, logs / f"{n}.log", ending) for n in (1, 2)]
        programs = (
            services.scheduler(address=_address(), environment=environment, grace=grace),
            services.worker(number=1, address=_address(), environment=environment, grace=grace),
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


async def _gateway(
    environment: Mapping[str, str], grace: float, log: Path, ending: AsyncExitStack
) -> GatewayProcess:
    address, metrics = _address(), _address()
    environment = {**environment, "HEADRACE_GATEWAY_METRICS_ADDRESS": metrics}
    program = services.gateway(address=address, environment=environment, grace=grace)
    proxy = Proxy(f"grpc://{address}")
    await proxy.start()
    ending.push_async_callback(proxy.cut)
    port = int(metrics.rpartition(":")[2])
    return GatewayProcess(Server(program, log=log), address, proxy, port)


def _address() -> str:
    return f"127.0.0.1:{free_port()}"

"""The services as real processes, with a database and a Redis for each test module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from headrace_core.runtime.settings import Settings
from headrace_standalone import services
from headrace_standalone.embedded.port import free_port
from support.processes import Processes
from support.server import Server
from support.settings import environment_of

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def shared_processes(
    module_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Processes]:
    """A gateway, a scheduler and a worker with the handlers in `support.handlers`."""
    with ExitStack() as stack:
        settings = module_settings.model_copy(
            update={"log_format": "json", "shutdown_grace": 1.0, "worker_lease": 3.0}
        )
        environment = environment_of(
            settings,
            HEADRACE_HANDLERS="support.handlers",
            HEADRACE_LOG_LEVEL="debug",
            PYTHONPATH=str(TESTS),
        )
        gateway, scheduler, worker = (f"127.0.0.1:{free_port()}" for _ in range(3))
        grace = settings.shutdown_grace
        programs = (
            services.gateway(address=gateway, environment=environment, grace=grace),
            services.scheduler(address=scheduler, environment=environment, grace=grace),
            services.worker(number=1, address=worker, environment=environment, grace=grace),
        )
        logs = tmp_path_factory.mktemp("logs")
        servers = [Server(program, log=logs / f"{program.name}.log") for program in programs]
        for server in servers:
            stack.callback(server.stop)
            server.launch()
        for server in servers:
            server.wait_until_serving()
        yield Processes(*servers, gateway, scheduler, worker)


@pytest.fixture
def processes(shared_processes: Processes) -> Processes:
    """The running processes; those that the previous test ended are restarted."""
    missing = [server for server in shared_processes.servers() if not server.running]
    for server in missing:
        server.stop()
        server.launch()
    for server in missing:
        server.wait_until_serving()
    return shared_processes

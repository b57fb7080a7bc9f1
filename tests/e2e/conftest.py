"""The services as real processes, with a database and a Redis for each test module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace_core.runtime.settings import Settings
from support.processes import Processes, three_services


@pytest.fixture(scope="module")
def shared_processes(
    module_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Processes]:
    """A gateway, a scheduler and a worker with the handlers in `support.handlers`."""
    settings = module_settings.model_copy(
        update={"log_format": "json", "shutdown_grace": 1.0, "worker_lease": 3.0}
    )
    with three_services(settings, logs=tmp_path_factory.mktemp("logs")) as processes:
        yield processes


@pytest.fixture
def processes(shared_processes: Processes) -> Processes:
    """The running processes. The fixture restarts a process that the previous test ended."""
    missing = [server for server in shared_processes.servers() if not server.running]
    for server in missing:
        server.stop()
        server.launch()
    for server in missing:
        server.wait_until_serving()
    return shared_processes

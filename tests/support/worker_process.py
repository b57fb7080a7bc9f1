"""A worker as a separate process, which a test may suspend, block and end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from headrace_core.runtime.settings import Settings
from headrace_standalone import services
from headrace_standalone.embedded.port import free_port
from support.server import Server
from support.settings import environment_of

_TESTS = Path(__file__).parent.parent


@asynccontextmanager
async def worker_process(
    settings: Settings, folder: Path, *, handlers: str = "support.handlers"
) -> AsyncIterator[Server]:
    """Run a worker for the length of the block; its log is `server.log`.

    Args:
        settings: the settings of the worker.
        folder: the folder of the log.
        handlers: the module of the handlers.
    """
    environment = environment_of(
        settings,
        HEADRACE_HANDLERS=handlers,
        HEADRACE_LOG_FORMAT="json",
        PYTHONPATH=str(_TESTS),
    )
    program = services.worker(
        number=1,
        address=f"127.0.0.1:{free_port()}",
        environment=environment,
        grace=settings.shutdown_grace,
    )
    server = Server(program, log=folder / "worker.log")
    try:
        server.launch()
        await server.serving()
        yield server
    finally:
        await asyncio.to_thread(server.kill)

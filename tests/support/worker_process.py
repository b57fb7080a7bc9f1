"""A worker as a process of its own, which a test may stop, block and end."""

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
    """A worker that serves, with the handlers of the tests; its log is `server.log`.

    Args:
        settings: its settings.
        folder: where its log goes.
        handlers: the module of its handlers.
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

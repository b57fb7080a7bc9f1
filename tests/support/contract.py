"""The two gateways of the contract suite, and the drivers of their jobs."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

from headrace import Client, JobState
from headrace.testing import FakeGateway
from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from headrace_worker import Context, Fail, RetryPolicy
from headrace_worker.api.registry import Registry, handler, registry
from support.logging import stored_lines
from support.platform import Platform, platform
from support.retention import prune
from support.until import until

# A worker runs jobs of the first type. No worker runs jobs of the second type.
SCRIPTED = "contract.scripted"
IDLE = "contract.idle"

_log = logging.getLogger("contract")
_commands: dict[str, asyncio.Queue[tuple[Any, ...]]] = defaultdict(asyncio.Queue)
_FAST_RETRIES = RetryPolicy(max_attempts=2, initial_backoff=timedelta(), max_backoff=timedelta())


@handler(SCRIPTED, queue="contract", retry=_FAST_RETRIES)
async def scripted(payload: dict[str, Any], ctx: Context) -> Any:
    """Execute the commands that the test sends."""
    commands = _commands[str(ctx.attempt.job_id)]
    while True:
        match await commands.get():
            case "progress", fraction, message:
                await ctx.progress(fraction, message, done=1)
            case "emit", output:
                await ctx.emit(output)
            case "log", message:
                _log.info(message)
            case "succeed", result:
                return result
            case "fail", message:
                raise Fail(message, type="ValueError")
            case "fail_attempt", message:
                raise ValueError(message)


class Driver(ABC):
    """A gateway, and methods that drive its jobs. Only `SCRIPTED` jobs have a worker."""

    target: str

    @abstractmethod
    async def start(self, job_id: str) -> None:
        """Start an attempt of a job, or wait until a worker has started an attempt."""

    @abstractmethod
    async def progress(self, job_id: str, fraction: float, message: str) -> None: ...

    @abstractmethod
    async def emit(self, job_id: str, output: Any) -> None: ...

    @abstractmethod
    async def log(self, job_id: str, message: str) -> None:
        """Log a line, and wait until it is stored."""

    @abstractmethod
    async def succeed(self, job_id: str, result: Any = None) -> None: ...

    @abstractmethod
    async def fail(self, job_id: str, message: str) -> None: ...

    @abstractmethod
    async def fail_attempt(self, job_id: str, message: str) -> None:
        """Fail the attempt, and start the next one."""

    @abstractmethod
    async def end_cancelled(self, job_id: str) -> None: ...

    @abstractmethod
    async def prune(self) -> None:
        """Prune all ended jobs and their events."""


class FakeDriver(Driver):
    """Drives `headrace.testing`."""

    def __init__(self, gateway: FakeGateway) -> None:
        self.target = gateway.target
        self._gateway = gateway

    async def start(self, job_id: str) -> None:
        self._gateway.start(job_id)

    async def progress(self, job_id: str, fraction: float, message: str) -> None:
        self._gateway.progress(job_id, fraction, message, counters={"done": 1})

    async def emit(self, job_id: str, output: Any) -> None:
        self._gateway.emit(job_id, output)

    async def log(self, job_id: str, message: str) -> None:
        self._gateway.log(job_id, message, logger=_log.name)

    async def succeed(self, job_id: str, result: Any = None) -> None:
        self._gateway.succeed(job_id, result)

    async def fail(self, job_id: str, message: str) -> None:
        self._gateway.fail(job_id, ValueError(message))

    async def fail_attempt(self, job_id: str, message: str) -> None:
        self._gateway.fail(job_id, ValueError(message), retry=True)
        self._gateway.make_due(job_id)
        self._gateway.start(job_id)

    async def end_cancelled(self, job_id: str) -> None:
        self._gateway.end_cancelled(job_id)

    async def prune(self) -> None:
        self._gateway.prune()


class PlatformDriver(Driver):
    """Drives a gateway, a scheduler and a worker on real servers."""

    def __init__(self, client: Client, gateway: Gateway, running: Platform) -> None:
        self.target = f"127.0.0.1:{gateway.port}"
        self._client = client
        self._running = running

    async def start(self, job_id: str) -> None:
        await self._until(job_id, JobState.RUNNING)

    async def progress(self, job_id: str, fraction: float, message: str) -> None:
        await self._command(job_id, "progress", fraction, message)

    async def emit(self, job_id: str, output: Any) -> None:
        await self._command(job_id, "emit", output)

    async def log(self, job_id: str, message: str) -> None:
        _commands[job_id].put_nowait(("log", message))

        async def stored() -> bool:
            return message in [line.message async for line in self._client.logs(job_id)]

        await until(stored)

    async def succeed(self, job_id: str, result: Any = None) -> None:
        await self._command(job_id, "succeed", result)

    async def fail(self, job_id: str, message: str) -> None:
        await self._command(job_id, "fail", message)

    async def fail_attempt(self, job_id: str, message: str) -> None:
        attempt = (await self._client.get(job_id)).attempt
        await self._command(job_id, "fail_attempt", message)
        await self._until(job_id, JobState.RUNNING, attempt=attempt + 1)

    async def end_cancelled(self, job_id: str) -> None:
        await self._until(job_id, JobState.CANCELLED)

    async def prune(self) -> None:
        await prune(self._running.database)

    async def _command(self, job_id: str, *command: Any) -> None:
        """Send a command to the handler, and wait for the resulting event."""
        seq = (await self._client.get(job_id)).seq
        _commands[job_id].put_nowait(command)

        async def written() -> bool:
            return (await self._client.get(job_id)).seq > seq

        await until(written)

    async def _until(self, job_id: str, state: JobState, attempt: int = 0) -> None:
        async def reached() -> bool:
            job = await self._client.get(job_id)
            return job.state is state and job.attempt >= attempt

        await until(reached)


@asynccontextmanager
async def real_driver(settings: Settings) -> AsyncIterator[Driver]:
    """Run a gateway, a scheduler and a worker in this process for the duration of the block."""
    handlers = Registry()
    registered = registry.get(SCRIPTED)
    assert registered is not None
    handlers.add(registered)
    async with AsyncExitStack() as stack:
        stack.enter_context(stored_lines(_log))
        running = await stack.enter_async_context(platform(settings, handlers))
        gateway = Gateway(settings)
        await gateway.start()
        try:
            async with Client(f"127.0.0.1:{gateway.port}") as client:
                yield PlatformDriver(client, gateway, running)
        finally:
            await gateway.stop()


@asynccontextmanager
async def fake_driver() -> AsyncIterator[Driver]:
    """Run a gateway in memory for the duration of the block."""
    async with FakeGateway() as gateway:
        driver = FakeDriver(gateway)
        # With this handler, the gateway lists and validates the type. The test performs the
        # transitions.
        gateway.offer(SCRIPTED, queue="contract")
        yield driver

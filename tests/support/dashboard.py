"""The whole platform with its web service in the test's event loop, for tests in a browser."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec

from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from headrace_scheduler.service import Scheduler
from headrace_web.service import Web
from headrace_worker import Context, Fail, RetryPolicy
from headrace_worker.api.registry import Registry, handler, registry
from headrace_worker.service import WorkerService
from support.logging import stored_lines

_log = logging.getLogger("pages")

_PREFIX = "page."
# Events that tests set to let a handler continue, by the name in its payload.
gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


class Double(msgspec.Struct, forbid_unknown_fields=True):
    """A number, and whether the caller is polite."""

    number: int
    polite: bool = False
    notes: list[str] = []


class Gated(msgspec.Struct):
    """The name of the gate at which the handler waits."""

    gate: str


@handler("page.double")
async def double(payload: Double) -> dict[str, int]:
    """Double a number."""
    return {"doubled": payload.number * 2}


@handler("page.gated", queue="slow")
async def gated(payload: Gated, ctx: Context) -> str:
    """Report progress and output, then wait for the gate."""
    await ctx.progress(0.5, "half done", lines=2)
    await ctx.emit("first line\n")
    await ctx.emit({"token": "second"})
    _log.info("half done")
    _log.warning("waiting for the gate")
    await gates[payload.gate].wait()
    return "open"


@handler("page.counting", queue="slow")
async def counting(payload: Gated, ctx: Context) -> None:
    """Emit numbers at random intervals until the gate opens."""
    rng = random.Random(payload.gate)
    number = 0
    while not gates[payload.gate].is_set():
        number += 1
        await ctx.emit(f"{number}\n")
        await asyncio.sleep(rng.uniform(0.0, 0.05))


@handler("page.failing", retry=RetryPolicy(max_attempts=1))
async def failing(payload: Any) -> None:
    """Fail without retry."""
    raise Fail("the input is broken", type="BrokenInput")


class Dashboard:
    """A running platform.

    Attributes:
        settings: the settings of all services.
        database: a connection pool.
        gateway: the gateway.
        url: the address of the web service.
    """

    def __init__(
        self, settings: Settings, *, database: Database, gateway: Gateway, url: str
    ) -> None:
        self.settings = settings
        self.database = database
        self.gateway = gateway
        self.url = url

    @property
    def target(self) -> str:
        """The address of the gateway."""
        return f"127.0.0.1:{self.gateway.port}"


def page_handlers() -> Registry:
    """Return the handlers of this module."""
    handlers = Registry()
    for each in registry:
        if each.spec.type.startswith(_PREFIX):
            handlers.add(each)
    return handlers


@asynccontextmanager
async def running_dashboard(settings: Settings) -> AsyncIterator[Dashboard]:
    """Run all services for the duration of the block."""
    handlers = page_handlers()
    async with AsyncExitStack() as stack:
        stack.enter_context(stored_lines(_log))
        database = Database(settings, application="test")
        stack.push_async_callback(database.close)
        gateway = Gateway(settings)
        for service in (Scheduler(settings), WorkerService(settings, handlers), gateway):
            await service.start()
            stack.push_async_callback(service.stop)
        web = Web(settings, target=f"127.0.0.1:{gateway.port}")
        await web.start()
        stack.push_async_callback(web.stop)
        yield Dashboard(
            settings, database=database, gateway=gateway, url=f"http://127.0.0.1:{web.port}"
        )

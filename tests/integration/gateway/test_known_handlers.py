"""The handlers that a gateway knows: read again and again, whatever comes between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.wake import WakeSubscription
from headrace_gateway.api import handlers
from headrace_gateway.api.handlers import HandlerCache
from support.until import until
from support.workers import register


async def test_a_reading_that_fails_unforeseen_is_not_the_last_one(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failed = handlers.live_handlers, asyncio.Event()

    async def fail_once(*args: Any, **options: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise ValueError("a row that nobody expected")
        return await read(*args, **options)

    # Nobody rings: it is read when what is known has become old.
    monkeypatch.setattr(handlers, "MAX_AGE", 0.01)
    cache = HandlerCache(database=database, wake=WakeSubscription())
    assert await cache.of(DEFAULT_TENANT) == {}
    monkeypatch.setattr(handlers, "live_handlers", fail_once)
    await cache.start()
    await failed.wait()
    await register(database, "late")

    async def known() -> bool:
        return "late" in await cache.of(DEFAULT_TENANT)

    await until(known)
    await cache.stop()

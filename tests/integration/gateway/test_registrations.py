"""Cached registrations, and the wake-ups, faults and ages after which a gateway rereads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.runtime.loop import LoopRunner, Timing, Wake
from headrace_core.store.sql.database import Database
from headrace_gateway.api import registrations as module
from headrace_gateway.api.registrations import Registrations
from support.clock import Clock
from support.jobs import submit
from support.workers import register, start

RETRY_AT_ONCE = Timing(retry=(0.0, 0.0))
DEADLINE_S = 20


@asynccontextmanager
async def running(registrations: Registrations) -> AsyncIterator[tuple[LoopRunner, Wake]]:
    wake = Wake()
    runner = LoopRunner(registrations, wake=wake, timing=RETRY_AT_ONCE)
    runner.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield runner, wake
    finally:
        await runner.stop()


async def test_wake_up_rereads_handlers_in_use(database: Database) -> None:
    registrations = Registrations(database=database, max_age=3600.0)
    assert await registrations.handlers(DEFAULT_TENANT) == {}
    await register(database, "late")
    async with running(registrations) as (runner, wake):
        assert await registrations.handlers(DEFAULT_TENANT) == {}
        wake.set()
        await runner.record.runs.wait_for_more()
        assert "late" in await registrations.handlers(DEFAULT_TENANT)


async def test_failed_run_is_retried(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    read, failed = module.live_handlers, asyncio.Event()

    async def fail_once(*args: Any, **options: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise ValueError("an unexpected row")
        return await read(*args, **options)

    # Without wake-ups, only the maximum age causes runs.
    registrations = Registrations(database=database, max_age=0.01)
    assert await registrations.handlers(DEFAULT_TENANT) == {}
    monkeypatch.setattr(module, "live_handlers", fail_once)
    async with running(registrations) as (runner, _):
        await runner.record.failures.wait_for_count(1)
        await register(database, "late")
        await runner.record.runs.wait_for_more(2)
        assert "late" in await registrations.handlers(DEFAULT_TENANT)


async def test_unused_tenants_and_pools_are_not_reread(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    registrations = Registrations(database=database, clock=clock)
    await registrations.handlers(DEFAULT_TENANT)
    await registrations.pools()
    await registrations.run_once()
    clock.now += 61
    monkeypatch.setattr(database, "statement", None)
    await registrations.run_once()


async def test_pools_are_at_most_a_second_old(database: Database) -> None:
    clock = Clock()
    registrations = Registrations(database=database, clock=clock)
    worker_id = await register(database, slots=2)
    assert [pool.running for pool in await registrations.pools()] == [0]
    await start(database, worker_id, await submit(database))
    assert [pool.running for pool in await registrations.pools()] == [0]
    clock.now += 1.01
    assert [pool.running for pool in await registrations.pools()] == [1]


async def test_run_rereads_pools_in_use(database: Database) -> None:
    registrations = Registrations(database=database, clock=Clock())
    await register(database, pool="first")
    assert len(await registrations.pools()) == 1
    await register(database, pool="second")
    await registrations.run_once()
    assert len(await registrations.pools()) == 2

"""The lease, with a database that does not end cancelled statements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import WorkerId, uuid7
from headrace_core.domain.pool import NewWorker
from headrace_core.runtime.loop import LoopRunner
from headrace_core.runtime.tasks import end_tasks
from headrace_worker import lease
from headrace_worker.lease import Lease
from headrace_worker.metrics import Counts


class UnreachableDatabase:
    """A database whose connection is dead, which TCP detects only after 15 minutes."""

    def __init__(self) -> None:
        self.hangs = asyncio.Event()
        self.detected = asyncio.Event()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[None]:
        try:
            self.hangs.set()
            await asyncio.Event().wait()
            yield
        finally:
            await self.detected.wait()


def worker() -> NewWorker:
    return NewWorker(
        id=WorkerId(uuid7()),
        tenants=["default"],
        name="one",
        pool="pool",
        queues=(),
        slots=1,
        handlers=(),
    )


async def test_hung_renewal_loses_the_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def register(*_: Any, **__: Any) -> None:
        """Register the worker."""

    monkeypatch.setattr(lease, "register_worker", register)
    database, lost, counts = UnreachableDatabase(), asyncio.Event(), Counts()
    held = Lease(
        database=database,  # type: ignore[arg-type]
        describe=worker,
        lease_s=0.6,
        heartbeat_s=0.2,
        on_doubt=lambda: None,
        on_lost=lost.set,
        on_held=lambda: None,
        counts=counts,
    )
    await held.register()
    running = LoopRunner(held, wake=held.wake).start()
    try:
        async with asyncio.timeout(60):
            await database.hangs.wait()
            await lost.wait()
        assert not database.detected.is_set()
        assert counts.lease_losses == 1
    finally:
        database.detected.set()
        await end_tasks(running)


class UnavailableDatabase:
    """A database that is not available."""

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[None]:
        raise Unavailable("postgresql")
        yield

    transaction = statement


class ReadOnlyDatabase(UnavailableDatabase):
    """A database that accepts the registration of a worker but no renewal."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield


async def test_lease_is_lost_one_heartbeat_before_it_lapses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def register(*_: Any, **__: Any) -> None:
        """Register the worker."""

    now = 0.0
    monkeypatch.setattr(lease, "register_worker", register)
    monkeypatch.setattr(lease, "_now", lambda: now)
    calls: list[str] = []
    held = Lease(
        database=ReadOnlyDatabase(),  # type: ignore[arg-type]
        describe=worker,
        lease_s=30.0,
        heartbeat_s=10.0,
        on_doubt=lambda: calls.append("doubt"),
        on_lost=lambda: calls.append("lost"),
        on_held=lambda: calls.append("held"),
        counts=Counts(),
    )
    await held.register()
    worker_id = held.worker_id
    now = 19.9
    with pytest.raises(Unavailable):
        await held.heartbeat()
    assert held.is_held(worker_id)
    assert calls == ["held", "doubt"]
    now = 20.0
    with pytest.raises(Unavailable):
        await held.heartbeat()
    assert not held.is_held(worker_id)
    assert calls == ["held", "doubt", "lost"]


async def test_failed_renewal_is_a_failed_run_of_the_loop() -> None:
    reported_failures: list[None] = []
    held = Lease(
        database=UnavailableDatabase(),  # type: ignore[arg-type]
        describe=worker,
        lease_s=30.0,
        heartbeat_s=0.001,
        on_doubt=lambda: reported_failures.append(None),
        on_lost=lambda: None,
        on_held=lambda: None,
        counts=Counts(),
    )
    runner = LoopRunner(held, wake=held.wake)
    task = runner.start()
    try:
        async with asyncio.timeout(60):
            await runner.record.failures.wait_for_count(2)
        assert runner.record.runs.count == 0
        assert len(reported_failures) == 1
    finally:
        await end_tasks(task)

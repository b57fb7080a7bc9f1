"""The end of a term."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from headrace_core.delivery import Deliverer
from headrace_core.runtime.loop import Loop, LoopRecords
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus, WakeSubscription
from headrace_scheduler import term
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.term import Term
from support.leading import lead

DEADLINE_S = 20


class RecordingBus(WakeBus):
    """A bus that counts its open subscriptions."""

    def __init__(self, settings: Settings, database: Database) -> None:
        super().__init__(settings, database, Topic.JOBS, Topic.SLOTS, Topic.ACCESS)
        self.open: set[WakeSubscription] = set()

    def subscribe(
        self, *topics: str, accepts: Callable[[Topic], bool] | None = None
    ) -> WakeSubscription:
        wake = super().subscribe(*topics, accepts=accepts)
        self.open.add(wake)
        return wake

    def unsubscribe(self, subscription: WakeSubscription) -> None:
        super().unsubscribe(subscription)
        self.open.discard(subscription)


class StubbornLoop(Loop):
    """A loop that ends only at the second cancellation."""

    name = "stubborn"
    started = asyncio.Event()
    cancelled = asyncio.Event()

    def __init__(self, **_: Any) -> None:
        StubbornLoop.started, StubbornLoop.cancelled = asyncio.Event(), asyncio.Event()

    async def run_once(self) -> float:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            await asyncio.Event().wait()
        return 0.0


async def test_term_cancelled_twice_closes_its_subscriptions(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(term, "Prune", StubbornLoop)
    bus = RecordingBus(settings, database)
    deliverer = Deliverer(settings, identify=database.installation_id)
    running = asyncio.create_task(
        Term(
            await lead(database),
            settings=settings,
            database=database,
            bus=bus,
            deliverer=deliverer,
            gauges=Gauges(),
            records=LoopRecords(),
        ).run()
    )
    async with asyncio.timeout(DEADLINE_S):
        await StubbornLoop.started.wait()
        assert bus.open
        # The leader cancels a term again if it has not ended within a second.
        for seen in (StubbornLoop.cancelled.wait(), asyncio.wait({running})):
            running.cancel()
            await seen
    assert running.cancelled()
    assert not bus.open
    await deliverer.close()
    await bus.stop()

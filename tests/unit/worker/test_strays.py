"""The search for claims whose response was lost."""

from __future__ import annotations

import asyncio

import pytest

from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.loop import LoopRunner, Timing, Wake
from headrace_worker.claims import Claims, Strays

# The longest wait, and the grace period in which an unexpected search would start, in seconds.
DEADLINE_S = 20
GRACE_S = 0.05


async def test_failed_search_for_strays_waits_for_its_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(_: Claims) -> None:
        raise Unavailable("postgresql")

    monkeypatch.setattr(Claims, "hand_back_strays", fail)
    wake = Wake()
    # Ends the wait before the first search.
    wake.set()
    strays = Strays(Claims.__new__(Claims), interval=3600.0)
    runner = LoopRunner(strays, wake=wake, timing=Timing(retry=(0.0, 0.0)))
    runner.start()
    async with asyncio.timeout(DEADLINE_S):
        await runner.record.failures.wait_for_count(1)
        await asyncio.sleep(GRACE_S)
        await runner.stop()
    assert runner.record.failures.count == 1

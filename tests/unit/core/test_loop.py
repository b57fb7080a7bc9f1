"""The loop runner: pace, wake-ups, retries, patience and records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MappingProxyType

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from headrace_core.domain.errors import StaleTerm, Unavailable
from headrace_core.runtime.loop import Loop, LoopRecords, LoopRunner, Signal, Timing, Wake
from headrace_core.runtime.metrics import LoopMetrics, registry_of

# Longest wait of a test, in seconds.
DEADLINE_S = 20
NO_RETRY_WAIT = Timing(retry=(0.0, 0.0))


class CountingLoop(Loop):
    """A loop that raises its faults first, and then waits."""

    name = "counting"
    pause = 0.0

    def __init__(self, *faults: Exception, wait: float = 3600.0) -> None:
        self.runs = self.failures = self.outages = 0
        self._faults = list(faults)
        self._wait = wait

    async def run_once(self) -> float:
        self.runs += 1
        if self._faults:
            raise self._faults.pop(0)
        return self._wait

    def on_failure(self) -> None:
        self.failures += 1

    def on_outage(self) -> None:
        self.outages += 1


@asynccontextmanager
async def running(runner: LoopRunner) -> AsyncIterator[None]:
    runner.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield
    finally:
        await runner.stop()


async def test_loop_runs_again_after_its_wait() -> None:
    runner = LoopRunner(CountingLoop(wait=0.001))
    async with running(runner):
        await runner.record.runs.wait_for_count(5)


async def test_wake_up_ends_the_wait() -> None:
    counting, wake = CountingLoop(), Wake()
    runner = LoopRunner(counting, wake=wake)
    async with running(runner):
        for runs in (1, 2, 3):
            await runner.record.runs.wait_for_count(runs)
            assert counting.runs == runs
            wake.set()


async def test_wake_up_during_a_run_causes_one_more_run() -> None:
    wake = Wake()

    class BusyLoop(CountingLoop):
        async def run_once(self) -> float:
            if self.runs == 0:
                wake.set()
                wake.set()
            return await super().run_once()

    busy = BusyLoop()
    runner = LoopRunner(busy, wake=wake)
    async with running(runner):
        await runner.record.runs.wait_for_count(2)
        await asyncio.sleep(0)
        assert busy.runs == 2


async def test_pause_collects_wake_ups_for_one_run() -> None:
    counting, wake = CountingLoop(), Wake()
    counting.pause = 0.2
    runner = LoopRunner(counting, wake=wake)
    clock = asyncio.get_running_loop().time
    async with running(runner):
        await runner.record.runs.wait_for_count(1)
        started = clock()
        for _ in range(10):
            wake.set()
            await asyncio.sleep(0)
        await runner.record.runs.wait_for_count(2)
        assert clock() - started >= 0.15
        assert counting.runs == 2


async def test_first_wait_delays_the_first_run() -> None:
    counting, wake = CountingLoop(), Wake()
    counting.first_wait = 3600.0
    runner = LoopRunner(counting, wake=wake)
    async with running(runner):
        await asyncio.sleep(0)
        assert counting.runs == 0
        wake.set()
        await runner.record.runs.wait_for_count(1)


async def test_any_fault_is_retried_and_logged_once() -> None:
    faults = (
        *(Unavailable("postgresql"), Unavailable("postgresql"), ValueError("a bug")),
        *(Unavailable("redis"), TimeoutError()),
    )
    counting = CountingLoop(*faults)
    runner = LoopRunner(counting, timing=NO_RETRY_WAIT)
    with capture_logs() as logs:
        async with running(runner):
            await runner.record.runs.wait_for_count(1)
    assert (counting.failures, runner.record.failures.count) == (5, 5)
    assert [(log["event"], log["log_level"], log.get("dependency")) for log in logs] == [
        ("loop_failed", "warning", "postgresql"),
        ("loop_failed", "error", None),
        ("loop_failed", "warning", "redis"),
        ("loop_failed", "warning", None),
        ("loop_recovered", "info", None),
    ]


async def test_loop_with_its_own_retry_ignores_the_timing() -> None:
    loop = CountingLoop(Unavailable("postgresql"))
    loop.retry = (0.0, 0.0)
    runner = LoopRunner(loop, timing=Timing(retry=(3600.0, 3600.0)))
    async with running(runner):
        await runner.record.runs.wait_for_count(1)
    assert loop.failures == 1


async def test_outage_is_reported_after_the_patience() -> None:
    now = 0.0

    def clock() -> float:
        return now

    class SlowLoop(CountingLoop):
        async def run_once(self) -> float:
            nonlocal now
            now += 4.0
            return await super().run_once()

    counting = SlowLoop(*(Unavailable("postgresql") for _ in range(4)))
    runner = LoopRunner(counting, timing=Timing(retry=(0.0, 0.0), patience=10.0), clock=clock)
    with capture_logs() as logs:
        async with running(runner):
            await runner.record.runs.wait_for_count(1)
    # Only the third and the fourth failure happen after more than 10 s.
    assert (counting.failures, counting.outages) == (4, 2)
    [outage] = [log for log in logs if log["event"] == "loop_outage"]
    assert (outage["log_level"], outage["failed_for_s"]) == ("error", 12.0)


async def test_outage_of_an_optional_dependency_is_a_warning() -> None:
    class LoopWithFallback(CountingLoop):
        fallbacks = MappingProxyType({"redis": "polling"})

    loop = LoopWithFallback(*(Unavailable(name) for name in ("redis", "redis", "postgresql")))
    runner = LoopRunner(loop, timing=Timing(retry=(0.0, 0.0), patience=-1.0))
    with capture_logs() as logs:
        async with running(runner):
            await runner.record.runs.wait_for_count(1)
    outages = [log for log in logs if log["event"] == "loop_outage"]
    assert [(outage["log_level"], outage.get("fallback")) for outage in outages] == [
        ("warning", "polling"),
        ("error", None),
    ]


async def test_fatal_error_ends_the_loop() -> None:
    runner = LoopRunner(CountingLoop(StaleTerm(1)), fatal=(StaleTerm,))
    task = runner.start()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(StaleTerm):
            await task
    assert (task.get_name(), runner.record.running) == ("counting", False)


async def test_metrics_contain_the_loop_records() -> None:
    records = LoopRecords()
    runner = LoopRunner(CountingLoop(ValueError()), timing=NO_RETRY_WAIT, records=records)
    async with running(runner):
        await runner.record.runs.wait_for_count(1)
        text = generate_latest(registry_of(LoopMetrics(records))).decode()
        assert 'headrace_loop_runs_total{loop="counting"} 1.0' in text
        assert 'headrace_loop_failures_total{loop="counting"} 1.0' in text
        assert 'headrace_loop_last_success_seconds{loop="counting"} 0.' in text
    text = generate_latest(registry_of(LoopMetrics(records))).decode()
    assert 'headrace_loop_last_success_seconds{loop="counting"}' not in text


async def test_signal_wakes_each_waiter_at_its_count() -> None:
    signal = Signal()
    first, third = (asyncio.create_task(signal.wait_for_count(count)) for count in (1, 3))
    await asyncio.sleep(0)
    for count in (1, 2, 3):
        signal.fire()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (first.done(), third.done()) == (True, count == 3)
    await signal.wait_for_count(2)

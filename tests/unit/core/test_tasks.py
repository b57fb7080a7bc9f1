"""Ending tasks, including tasks that swallow a cancellation."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from headrace_core.runtime import tasks
from headrace_core.runtime.tasks import end_tasks, run_to_end


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_CANCEL_INTERVAL_S", 0.01)


class StubbornTask:
    """A task that swallows a number of cancellations before it ends."""

    def __init__(self, swallowed: int) -> None:
        self.swallowed = swallowed
        self.started = asyncio.Event()

    async def run(self) -> None:
        self.started.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.swallowed -= 1
                if self.swallowed < 0:
                    raise


async def start(*works: StubbornTask) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(work.run()) for work in works]
    for work in works:
        await work.started.wait()
    return tasks


async def test_task_that_swallows_a_cancellation_is_cancelled_again():
    tasks = await start(StubbornTask(0), StubbornTask(3))
    async with asyncio.timeout(60):
        await end_tasks(*tasks)
    assert all(task.cancelled() for task in tasks)


async def test_task_that_never_ends_is_abandoned_after_the_timeout():
    works = StubbornTask(0), StubbornTask(10**9)
    ended, left = await start(*works)
    async with asyncio.timeout(60):
        await end_tasks(ended, left, within=0.05)
    assert ended.cancelled()
    assert not left.done()
    works[1].swallowed = 0
    await end_tasks(left)


async def test_task_exception_is_not_raised():
    async def fail() -> None:
        raise ValueError("its own")

    failed = asyncio.create_task(fail())
    await asyncio.wait({failed})
    await end_tasks(failed)
    assert isinstance(failed.exception(), ValueError)


async def test_cancelled_end_tasks_leaves_no_task_running():
    work = StubbornTask(3)
    [task] = await start(work)
    ending = asyncio.create_task(end_tasks(task))
    await asyncio.sleep(0)
    ending.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait({ending})
    assert ending.cancelled()
    assert task.cancelled()


async def test_end_tasks_without_tasks_returns():
    await end_tasks()


def test_repeated_loop_exits_are_logged_once_per_second() -> None:
    loop = asyncio.new_event_loop()

    def leave() -> None:
        raise SystemExit(1)

    async def main() -> str:
        for _ in range(20):
            loop.call_soon(leave)
            await asyncio.sleep(0)
        return "done"

    with capture_logs() as logs:
        assert run_to_end(loop, loop.create_task(main())) == "done"
    loop.close()
    assert logs[0]["event"] == "loop_exit_ignored"
    # A slow machine may need more than one second.
    assert len(logs) < 20

"""Ending tasks, also those whose libraries lose a cancellation."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from headrace_core.runtime import tasks
from headrace_core.runtime.tasks import end_tasks, run_to_end


@pytest.fixture(autouse=True)
def at_short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_AGAIN", 0.01)


class Stubborn:
    """Loses so many cancellations before it takes one."""

    def __init__(self, losses: int) -> None:
        self.losses = losses
        self.begun = asyncio.Event()

    async def run(self) -> None:
        self.begun.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.losses -= 1
                if self.losses < 0:
                    raise


async def begin(*works: Stubborn) -> list[asyncio.Task[None]]:
    begun = [asyncio.create_task(work.run()) for work in works]
    for work in works:
        await work.begun.wait()
    return begun


async def test_a_task_that_loses_a_cancellation_is_cancelled_again():
    begun = await begin(Stubborn(0), Stubborn(3))
    async with asyncio.timeout(10):
        await end_tasks(*begun)
    assert all(task.cancelled() for task in begun)


async def test_what_never_ends_is_left_behind_in_time():
    works = Stubborn(0), Stubborn(10**9)
    ended, left = await begin(*works)
    async with asyncio.timeout(10):
        await end_tasks(ended, left, within=0.05)
    assert ended.cancelled()
    assert not left.done()
    works[1].losses = 0
    await end_tasks(left)


async def test_what_a_task_raises_is_its_own():
    async def fail() -> None:
        raise ValueError("its own")

    failed = asyncio.create_task(fail())
    await asyncio.wait({failed})
    await end_tasks(failed)
    assert isinstance(failed.exception(), ValueError)


async def test_who_is_cancelled_while_it_waits_leaves_nothing_behind():
    work = Stubborn(3)
    [task] = await begin(work)
    ending = asyncio.create_task(end_tasks(task))
    await asyncio.sleep(0)
    ending.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait({ending})
    assert ending.cancelled()
    assert task.cancelled()


async def test_there_may_be_nothing_to_end():
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

"""The pool of processes in which a worker runs handlers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
import uvloop

from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import JsonText, Progress
from headrace_core.runtime.settings import Settings
from headrace_worker.api.context import Attempt
from headrace_worker.api.errors import Fail
from headrace_worker.runners.loop import ProcessDied
from headrace_worker.runners.process_pool import ProcessPool
from headrace_worker.timing import Timing
from support.handlers import handlers
from support.processes import is_running
from support.until import until

DEADLINE_S = 60.0


class Reporter:
    """Accepts reports, and calls `on_output` with each piece of output."""

    def __init__(self, on_output: Callable[[JsonText], Awaitable[None]]) -> None:
        self.output = on_output

    async def progress(self, progress: Progress) -> None:
        pass

    async def prepare_completion(self, size: int) -> None:
        pass


async def run(
    processes: ProcessPool,
    job_type: str,
    on_output: Callable[[JsonText], Awaitable[None]],
    *,
    payload: JsonText = "{}",
) -> JsonText:
    handler = handlers().get(job_type)
    assert handler is not None
    attempt = Attempt(
        job_id=JobId(uuid7()),
        number=1,
        type=job_type,
        queue="default",
        tenant="default",
        labels={},
        deadline=datetime.now(UTC) + timedelta(minutes=1),
        ends=time.monotonic() + 60,
    )
    return await processes.run(handler, payload, attempt, Reporter(on_output), check=lambda: None)


def test_process_killed_during_a_report_has_died() -> None:
    async def main() -> None:
        processes = ProcessPool(Settings())

        async def die(pid: JsonText) -> None:
            os.kill(int(pid), signal.SIGKILL)
            [process] = processes._busy
            await until(process._stdin.is_closing)

        with pytest.raises(ProcessDied, match="SIGKILL"):
            await run(processes, "t.spin", die)

    uvloop.run(main())


@contextmanager
def children() -> Iterator[list[int]]:
    """A list of processes to kill at the end: a child with an open pipe blocks the loop."""
    pids: list[int] = []
    try:
        yield pids
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("detached", [False, True])
def test_surviving_child_does_not_hide_the_dead_process(detached: bool) -> None:
    async def main() -> None:
        with children() as started:

            async def die(pids: JsonText) -> None:
                process, child = json.loads(pids)
                started.append(child)
                os.kill(process, signal.SIGKILL)

            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(ProcessDied, match="SIGKILL"):
                    await run(ProcessPool(Settings()), "t.fork", die, payload=json.dumps(detached))
            if not detached:
                await until(lambda: not is_running(started[0]))

    uvloop.run(main())


def test_cancel_kills_the_children_of_the_process() -> None:
    async def main() -> None:
        with children() as started:
            forked = asyncio.Event()

            async def record(pids: JsonText) -> None:
                started.append(json.loads(pids)[1])
                forked.set()

            # Waiting for a process that never exits would exceed the test deadline.
            timing = Timing(process_reap=DEADLINE_S)
            processes = ProcessPool(Settings(worker_cancel_grace=0.1), timing=timing)
            attempt = asyncio.create_task(run(processes, "t.fork", record, payload="false"))
            async with asyncio.timeout(DEADLINE_S):
                await forked.wait()
                attempt.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await attempt
                await until(lambda: not is_running(started[0]))

    uvloop.run(main())


@pytest.mark.parametrize(
    ("job_type", "mebibytes", "reused"),
    [
        ("t.allocate", 1, True),
        ("t.allocate", 200, False),
        ("t.allocate_unlimited", 1, True),
        ("t.allocate_unlimited", 300, False),
    ],
)
def test_process_that_keeps_much_memory_is_not_reused(
    job_type: str, mebibytes: int, reused: bool
) -> None:
    async def main() -> None:
        processes = ProcessPool(Settings())
        pids: list[JsonText] = []

        async def record(pid: JsonText) -> None:
            pids.append(pid)

        async with asyncio.timeout(DEADLINE_S):
            await run(processes, job_type, record, payload=json.dumps({"number": mebibytes}))
            await run(processes, "t.allocate", record, payload=json.dumps({"number": 1}))
        assert (pids[0] == pids[1]) is reused
        await processes.close()

    uvloop.run(main())


def test_process_beyond_its_memory_limit_fails_without_retry() -> None:
    async def main() -> None:
        processes = ProcessPool(Settings())

        async def record(_: JsonText) -> None:
            pass

        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(Fail, match="memory limit of 268435456 bytes") as caught:
                await run(processes, "t.allocate", record, payload='{"number": -1}')
        assert caught.value.type == "MemoryLimitExceeded"
        await processes.close()

    uvloop.run(main())

"""What a worker makes of the process of a handler."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
import uvloop

from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import JsonText, Progress
from headrace_core.settings import Settings
from headrace_worker.context import Attempt
from headrace_worker.isolation import ProcessPool
from headrace_worker.verdict import ProcessDied
from support.handlers import handlers
from support.until import until


class Reporter:
    """Takes what is reported; `on_output` is called with each piece of output."""

    def __init__(self, on_output: Callable[[JsonText], Awaitable[None]]) -> None:
        self.output = on_output

    async def progress(self, progress: Progress) -> None:
        pass

    async def completing(self, size: int) -> None:
        pass


async def run(
    processes: ProcessPool, job_type: str, on_output: Callable[[JsonText], Awaitable[None]]
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
    return await processes.run(handler, "{}", attempt, Reporter(on_output), check=lambda: None)


def test_a_death_while_a_report_is_taken_is_one() -> None:
    async def main() -> None:
        processes = ProcessPool(Settings())

        async def die(pid: JsonText) -> None:
            os.kill(int(pid), signal.SIGKILL)
            [process] = processes._busy
            await until(process._stdin.is_closing)

        with pytest.raises(ProcessDied, match="SIGKILL"):
            await run(processes, "t.spin", die)

    uvloop.run(main())

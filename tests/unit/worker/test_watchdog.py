"""The watchdog barks when the loop stands still, and at nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from headrace_core.domain.ids import JobId, uuid7
from headrace_worker.watchdog import EXIT_CODE, Watchdog

LIMIT_S = 0.5

# It tells that it runs, and then does what its argument says.
_PROGRAM = f"""
import asyncio, sys, time
from headrace_worker.watchdog import Watchdog

async def main():
    watchdog = Watchdog(limit={LIMIT_S}, running=list)
    watchdog.start()
    print("watched", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    if sys.argv[1] == "block":
        time.sleep(60)
    watchdog.stop()

asyncio.run(main())
"""


async def test_a_blocked_loop_is_ended_with_a_line_that_tells_where_it_stood(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ended = threading.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    job_id = JobId(uuid7())
    watchdog = Watchdog(limit=LIMIT_S, running=lambda: [job_id], end=end)
    watchdog.start()

    def where_it_stands() -> None:
        assert ended.wait(20)

    where_it_stands()
    watchdog.stop()
    assert codes == [EXIT_CODE]
    said = "".join(capfd.readouterr())
    assert "event_loop_blocked" in said
    assert "where_it_stands" in said
    assert str(job_id) in said


async def test_a_loop_that_turns_is_left_alone() -> None:
    codes: list[int] = []
    watchdog = Watchdog(limit=LIMIT_S, running=list, end=codes.append)
    watchdog.start()
    deadline = time.monotonic() + 3 * LIMIT_S
    while time.monotonic() < deadline:
        time.sleep(LIMIT_S / 10)
        await asyncio.sleep(0)
    watchdog.stop()
    assert codes == []


def watched(what: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"watched\n"
    return process


def test_a_process_that_blocks_is_ended() -> None:
    with watched("block") as process:
        process.communicate(b"go\n", timeout=30)
        assert process.returncode == EXIT_CODE


def test_a_process_that_was_stopped_and_goes_on_is_left_alone() -> None:
    with watched("end") as process:
        os.kill(process.pid, signal.SIGSTOP)
        while "T (stopped)" not in Path(f"/proc/{process.pid}/status").read_text():
            time.sleep(0.01)
        # What is to be survived is a length of time.
        time.sleep(3 * LIMIT_S)
        os.kill(process.pid, signal.SIGCONT)
        process.communicate(b"go\n", timeout=30)
        assert process.returncode == 0

"""The watchdog ends a blocked process, and no other process."""

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

# The program prints a line, and blocks its loop if the argument is "block".
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


async def test_blocked_loop_is_ended_and_its_stack_logged(
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

    def blocking_function() -> None:
        assert ended.wait(20)

    blocking_function()
    watchdog.stop()
    assert codes == [EXIT_CODE]
    output = "".join(capfd.readouterr())
    assert "event_loop_blocked" in output
    assert "blocking_function" in output
    assert str(job_id) in output


async def test_responsive_loop_is_not_ended() -> None:
    codes: list[int] = []
    watchdog = Watchdog(limit=LIMIT_S, running=list, end=codes.append)
    watchdog.start()
    deadline = time.monotonic() + 3 * LIMIT_S
    while time.monotonic() < deadline:
        time.sleep(LIMIT_S / 10)
        await asyncio.sleep(0)
    watchdog.stop()
    assert codes == []


def watched(mode: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"watched\n"
    return process


def test_blocked_process_exits() -> None:
    with watched("block") as process:
        process.communicate(b"go\n", timeout=30)
        assert process.returncode == EXIT_CODE


def test_resumed_process_is_not_ended() -> None:
    with watched("end") as process:
        os.kill(process.pid, signal.SIGSTOP)
        while "T (stopped)" not in Path(f"/proc/{process.pid}/status").read_text():
            time.sleep(0.01)
        # The suspension must exceed the watchdog limit.
        time.sleep(3 * LIMIT_S)
        os.kill(process.pid, signal.SIGCONT)
        process.communicate(b"go\n", timeout=30)
        assert process.returncode == 0

"""A real server process that a test can start, kill and restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from headrace_standalone.program import Program

T = TypeVar("T")


def run_async(work: Callable[[], Awaitable[T]], *, timeout: float = 60.0) -> T:
    """Run a coroutine from synchronous code, on a separate event loop."""

    async def bounded() -> T:
        async with asyncio.timeout(timeout):
            return await work()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(bounded())


class Server:
    """One program as a child process of the tests."""

    def __init__(self, program: Program, *, log: Path) -> None:
        self.program = program
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def ended_unexpectedly(self) -> bool:
        """True if the process has ended although this object did not stop it."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """Start the process and wait until it serves."""
        self.launch()
        self.wait_until_serving()

    def launch(self) -> None:
        """Start the process."""
        assert self._process is None, "already started"
        if self.program.prepare is not None:
            self.program.prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.program.arguments(), **self.program.options(log))

    def wait_until_serving(self) -> None:
        """Wait until the process serves."""
        run_async(self.serving, timeout=self.program.start_timeout + 5)

    async def serving(self) -> None:
        """Wait until the process serves, from an event loop."""
        process = self._process
        assert process is not None
        deadline = time.monotonic() + self.program.start_timeout
        while not await self.program.probe():
            assert process.poll() is None, f"{self.program.name} ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"{self.program.name}: {self.log.read_text()}"
            await asyncio.sleep(0.02)

    def terminate(self, *, within: float, signum: signal.Signals | None = None) -> int:
        """Send `signum` or the program's stop signal; return the exit code."""
        process, self._process = self._process, None
        assert process is not None, "not started"
        process.send_signal(signum or self.program.stop_signal)
        try:
            return process.wait(within)
        finally:
            self._kill(process)

    def wait_until_ended(self, *, within: float) -> int:
        """Wait until the process has ended; return its exit code."""
        assert self._process is not None, "not started"
        code = self._process.wait(within)
        self._process = None
        return code

    def stop(self) -> None:
        """Stop the process, or kill it after its grace period."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self.program.stop_signal)
        try:
            process.wait(self.program.stop_grace)
        except subprocess.TimeoutExpired:
            self._kill(process)

    def kill(self) -> None:
        """Kill the process and all its children, as in a machine crash."""
        process, self._process = self._process, None
        if process is not None:
            self._kill(process)

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@contextlib.contextmanager
def serving(program: Program, *, log: Path) -> Iterator[Server]:
    """Run a server for the duration of the block."""
    server = Server(program, log=log)
    try:
        server.start()
        yield server
    finally:
        server.stop()

"""A supervised program: started, restarted after each end, and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from headrace_core.domain.retry import RetryPolicy
from headrace_standalone.embedded import EmbeddedServerError
from headrace_standalone.log_file import LogFile
from headrace_standalone.program import Program

# Restarts have no limit; the wait grows while the program keeps ending early.
RESTARTS = RetryPolicy(
    initial_backoff=timedelta(seconds=0.5), max_backoff=timedelta(seconds=10), jitter=0.5
)
# Run time after which the wait before a restart is reset to the shortest one, in seconds.
_STABLE_S = 30.0
_PROBE_INTERVAL_S = 0.05
# Seconds between two messages about a slow start.
_NOTICE_INTERVAL_S = 15.0
# The maximum number of reads after a process has ended, enough to empty a pipe. The number is
# limited because a process that has left the group can continue to write.
_DRAIN_READS = 32
_READ_BYTES = 64 * 1024
# Longest wait for the end of a killed process, in seconds.
_KILL_S = 10.0


class ProgramFailedError(Exception):
    """A program did not start serving.

    Args:
        name: the name of the program.
        reason: the reason, as a verb phrase with the name as its subject.
        tail: the end of the program's log.
    """

    def __init__(self, *, name: str, reason: str, tail: str) -> None:
        self.name = name
        self.reason = reason
        self.tail = tail
        super().__init__(f"{name}: {reason}")


class SupervisedProgram:
    """Runs a program until it is stopped, and restarts it after each unexpected end.

    Args:
        program: the program to run.
        log: receives its output; closed at the end.
        announce: called with a sentence about each event.
        restarts: determines the waits before restarts; `max_attempts` has no effect.
    """

    def __init__(
        self,
        program: Program,
        *,
        log: LogFile,
        announce: Callable[[str], None],
        restarts: RetryPolicy = RESTARTS,
    ) -> None:
        self._program = program
        self._log = log
        self._announce = announce
        self._restarts = restarts
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._killed = False
        self._served: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Mark the exception as retrieved, because no task awaits it after an abandoned start.
        self._served.add_done_callback(lambda served: served.cancelled() or served.exception())
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None if no process is running."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the program, wait until it serves, and keep it running.

        A program that postpones its start has no time limit; a message reports the wait every 15 s.

        Raises:
            ProgramFailedError: the program ended, or did not serve in time. It is not restarted,
                but `stop` must still be called.
        """
        self._task = asyncio.create_task(self._run(), name=f"supervise {self._program.name}")
        start = time.monotonic()
        limit = _NOTICE_INTERVAL_S if self._program.postpones else self._program.start_timeout
        while True:
            try:
                async with asyncio.timeout(limit):
                    await asyncio.shield(self._served)
                return
            except TimeoutError:
                if not self._program.postpones:
                    self._stopping.set()
                    raise self._failure(f"did not serve within {limit:g} s") from None
            waited = time.monotonic() - start
            self._announce(
                f"{self._program.name} is not serving after {waited:.0f} s. "
                f"Its log ends with:\n{self._log.tail(1)}"
            )

    async def stop(self) -> None:
        """Stop the program, kill it after its grace period, and wait for its end."""
        self._stopping.set()
        if self._task is not None:
            await self._task
        self._served.cancel()
        self._log.close()

    def kill(self) -> None:
        """Kill the program at once; call `stop` to wait for its end."""
        self._killed = True
        self._stopping.set()
        self._kill_group()

    async def _run(self) -> None:
        deaths = 0
        while not self._stopping.is_set():
            start = time.monotonic()
            end = await self._run_once(again=deaths > 0)
            if self._stopping.is_set():
                return
            if not self._served.done():
                self._served.set_exception(self._failure(end))
                return
            deaths = 1 if time.monotonic() - start > _STABLE_S else deaths + 1
            wait = self._restarts.backoff(deaths).total_seconds()
            self._announce(f"{self._program.name} {end}; starting it again in {wait:.1f} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()

    async def _run_once(self, *, again: bool) -> str:
        """Run the program once, and return how it ended."""
        try:
            if self._program.prepare is not None:
                await asyncio.to_thread(self._program.prepare)
            process, output = await self._spawn()
        except (OSError, EmbeddedServerError) as error:
            return f"cannot be started: {error}"
        self._process = process
        exited = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        probing = asyncio.create_task(self._probe(again=again))
        try:
            await asyncio.wait((exited, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                await self._end_process(process)
            return _exit_reason(process.returncode)
        finally:
            for task in (exited, stopping, probing):
                task.cancel()
            # Kill the child processes that are still running.
            self._kill_group()
            self._process = None
            self._drain(output)

    async def _spawn(self) -> tuple[asyncio.subprocess.Process, asyncio.ReadTransport]:
        # With asyncio's own pipe, a grandchild that keeps it open would hide the end of the child.
        read, write = os.pipe()
        try:
            output, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: _Output(self._log), os.fdopen(read, "rb", buffering=0)
            )
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._program.arguments(), **self._program.options(write)
                )
            except BaseException:
                output.close()
                raise
        finally:
            os.close(write)
        return process, output

    async def _probe(self, *, again: bool) -> None:
        while not await self._program.probe():  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(_PROBE_INTERVAL_S)
        if not self._served.done():
            self._served.set_result(None)
        if again:
            self._announce(f"{self._program.name} serves again")

    async def _end_process(self, process: asyncio.subprocess.Process) -> None:
        if not self._killed:
            with suppress(ProcessLookupError):
                process.send_signal(self._program.stop_signal)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._program.stop_grace):
                    await process.wait()
                return
            grace = f"{self._program.stop_grace:g} s"
            self._announce(f"{self._program.name} did not end within {grace}; killing it")
        self._kill_group()
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_S):
                await process.wait()

    def _kill_group(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _drain(self, output: asyncio.ReadTransport) -> None:
        """Log the output that an ended process left in the pipe, and close the pipe."""
        if output.is_closing():  # read to its end
            return
        pipe = output.get_extra_info("pipe")
        with suppress(OSError):
            for _ in range(_DRAIN_READS):
                if not (data := os.read(pipe.fileno(), _READ_BYTES)):
                    break
                self._log.write(data)
        output.close()

    def _failure(self, reason: str) -> ProgramFailedError:
        return ProgramFailedError(name=self._program.name, reason=reason, tail=self._log.tail())


class _Output(asyncio.Protocol):
    def __init__(self, log: LogFile) -> None:
        self._log = log

    def data_received(self, data: bytes) -> None:
        self._log.write(data)


def _exit_reason(code: int | None) -> str:
    if code is None:
        return "cannot be killed"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"

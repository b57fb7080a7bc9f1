"""Handlers in processes of their own, which a timeout or a cancel really ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import assert_never

from headrace_core.domain.errors import AttemptNotCurrent
from headrace_core.domain.job import JsonText, Progress
from headrace_core.runtime.settings import Settings
from headrace_worker.api.context import Attempt, Reporter
from headrace_worker.api.errors import Fail, Retry
from headrace_worker.api.payload import PayloadMismatch
from headrace_worker.api.registry import RegisteredHandler
from headrace_worker.attempt.failure import attach_stack_trace
from headrace_worker.attempt.judge import ProcessDied, RemoteError
from headrace_worker.runners import frames
from headrace_worker.runners.children import children_of, with_descendants
from headrace_worker.runners.memory import MemoryWatch, leaves_room

# A process that has closed its output ends within this many seconds, or is killed.
_END_S = 1.0
# A killed process is gone within this many seconds, or the machine has other troubles.
_REAP_S = 5.0
_CHUNK_BYTES = 2**16
# How far a process may go beyond the limits of results and outputs at once: what is not much too
# large is told by its size, and what is shall not fill the worker's memory.
_SLACK_BYTES = 16 * 2**20


class _HandlerProcess:
    """A process that serves one job at a time. What it starts ends with it."""

    def __init__(self, process: Process, *, max_message_bytes: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._incoming = frames.Incoming(process.stdout, max_bytes=max_message_bytes)
        # A report of its handler has no answer yet, and it waits for one.
        self.waits = False
        self._gone = asyncio.create_task(self._end_group())

    @classmethod
    async def spawn(cls, settings: Settings) -> _HandlerProcess:
        """Starts a process."""
        largest = max(settings.max_result_bytes, settings.max_output_bytes)
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "headrace_worker.runners.process_main",
                settings.log_level,
                settings.log_format,
                stdin=PIPE,
                stdout=PIPE,
                # What can be imported here can be imported there, however it got onto the path.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                # A group of its own, which its children are in.
                start_new_session=True,
            ),
            max_message_bytes=largest + _SLACK_BYTES,
        )

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def send(self, message: frames.ToHandler) -> None:
        """Says something to it. That it is gone shows at the next `receive`."""
        if self._stdin.is_closing():
            # uvloop's takes no more, and that is no ConnectionError.
            return
        with suppress(ConnectionError):
            self._stdin.write(frames.frame(message))
            await self._stdin.drain()

    async def receive(self) -> frames.FromHandler:
        """Waits for what it says.

        Raises:
            ProcessDied: it died.
            Fail: it says more than fits into this process.
        """
        try:
            message: frames.FromHandler = frames.decode_from_handler(await self._incoming.receive())
        except frames.TooLarge as error:
            raise Fail(
                f"the handler said {error.size} bytes at once; its worker takes at most "
                f"{error.limit}",
                type="LimitExceeded",
            ) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            # It closes its output as it ends. Killing it now could take the place of its real end,
            # and so could even asking whether it is alive.
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await self._process.wait()
            code = await self.kill()
            raise ProcessDied(f"the handler's process {_ending(code)}") from None
        return message

    def abort(self) -> None:
        """Kills it if it is alive, with all that it has started, and waits for nothing."""
        if self.alive:
            # Some may have left for a session of their own.
            started = with_descendants(children_of(self.pid))
            self._kill_group()
            for pid in started:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def kill(self) -> int | None:
        """Kills it if it is alive; returns its exit code."""
        self.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(_REAP_S):
                # Its output is only closed when everything in it has been read.
                while await self._stdout.read(_CHUNK_BYTES):
                    pass
                await asyncio.wait({self._gone})
        self._stdin.close()
        return self._process.returncode

    async def _end_group(self) -> None:
        # A child that lives on would work for nobody, and could keep open what ends with this.
        await self._process.wait()
        self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class ProcessPool:
    """Some processes; one that has ended its job by itself serves the next one.

    Args:
        settings: how many there are places for, beyond which a job waits for one; how long a
            cancelled handler has before its process is killed; logs and limits.
    """

    def __init__(self, settings: Settings) -> None:
        self.place = asyncio.Semaphore(settings.worker_processes)
        self._grace = settings.worker_cancel_grace
        self._settings = settings
        self._idle: list[_HandlerProcess] = []
        self._busy: set[_HandlerProcess] = set()

    async def run(
        self,
        handler: RegisteredHandler,
        payload: JsonText,
        attempt: Attempt,
        reporter: Reporter,
        *,
        check: Callable[[], None],
    ) -> JsonText:
        """Runs a handler in a process, by a caller that has a `place`.

        Args:
            handler, payload, attempt, reporter: what is run.
            check: called when the process is there; what it raises ends the attempt.

        Raises:
            Fail, Retry, PayloadMismatch, RemoteError: how it ended; Fail also when its process
                used more memory than its limit.
            ProcessDied: it has ended its process.
            CancelledError: it was cancelled, and its process has ended the job or is gone.
        """
        run = frames.Run(
            module=handler.function.__module__,
            type=handler.spec.type,
            payload=payload,
            job_id=str(attempt.job_id),
            attempt=attempt.number,
            queue=attempt.queue,
            tenant=attempt.tenant,
            labels=dict(attempt.labels),
            deadline=attempt.deadline,
            time_left=max(0.0, attempt.ends - time.monotonic()),
            correlation_id=attempt.correlation_id,
        )
        limit = handler.memory_limit() if callable(handler.memory_limit) else handler.memory_limit
        process = await self._take(limit)
        self._busy.add(process)
        ended = False
        with MemoryWatch(process.pid, limit, process.abort):
            try:
                check()
                await process.send(run)
                end = await self._converse(process, reporter)
                # One whose memory has run out may have too little for the next job as well.
                ended = not (isinstance(end, frames.Raised) and end.type == MemoryError.__name__)
                ended = ended and not end.last
            except asyncio.CancelledError:
                ended = await self._ends_in_grace(process, reporter)
                raise
            finally:
                self._busy.discard(process)
                if ended and leaves_room(process.pid, limit):
                    self._idle.append(process)
                else:
                    await asyncio.shield(process.kill())
        return _result(end)

    async def close(self) -> None:
        """Ends all processes, those of handlers too that were left behind."""
        for process in self._busy:
            # Whoever waits for it learns of that.
            process.abort()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(process.kill() for process in idle))

    async def _take(self, memory_limit: int | None) -> _HandlerProcess:
        while self._idle:
            process = self._idle.pop()
            # An earlier job, of another limit, may have left much in it.
            if process.alive and leaves_room(process.pid, memory_limit):
                return process
            await process.kill()
        return await _HandlerProcess.spawn(self._settings)

    async def _converse(
        self, process: _HandlerProcess, reporter: Reporter
    ) -> frames.Returned | frames.Raised:
        """Passes on what the handler reports, until it ends."""
        while True:
            message = await process.receive()
            if isinstance(message, frames.Returned | frames.Raised):
                return message
            process.waits = True
            answer = await _take(message, reporter)
            process.waits = False
            await process.send(answer)

    async def _ends_in_grace(self, process: _HandlerProcess, reporter: Reporter) -> bool:
        """Asks the handler to end, and tells whether it did."""
        try:
            async with asyncio.timeout(self._grace):
                await process.send(frames.Cancel())
                if process.waits:
                    process.waits = False
                    await process.send(frames.Taken())
                while not isinstance(
                    message := await process.receive(), frames.Returned | frames.Raised
                ):
                    answer = frames.Taken()
                    if isinstance(message, frames.Completing):
                        # It may finish its job yet, and that counts.
                        answer = await _take(message, reporter)
                    await process.send(answer)
        except (TimeoutError, ProcessDied, Fail, AttemptNotCurrent):
            return False
        return not message.last


async def _take(
    message: frames.Progressed | frames.Output | frames.Completing, reporter: Reporter
) -> frames.Taken:
    try:
        match message:
            case frames.Progressed(fraction=fraction, message=text, counters=counters):
                progress = Progress(fraction=fraction, message=text, counters=counters)
                await reporter.progress(progress)
            case frames.Output(chunk=chunk):
                await reporter.output(chunk)
            case frames.Completing(size=size):
                await reporter.completing(size)
            case _:
                assert_never(message)
    except Fail as refusal:
        return frames.Taken(fail=str(refusal))
    return frames.Taken()


def _result(end: frames.Returned | frames.Raised) -> JsonText:
    match end:
        case frames.Returned(result=result):
            return result
        case frames.Raised(kind="fail"):
            error: Exception = Fail(end.message, type=end.type)
        case frames.Raised(kind="retry"):
            error = Retry(end.message, after=end.after)
        case frames.Raised(kind="payload"):
            error = PayloadMismatch(end.message)
        case _:
            error = RemoteError(end.type, end.message)
    attach_stack_trace(error, end.stack_trace)
    raise error


def _ending(code: int | None) -> str:
    if code is None:
        return "hung and could not be killed"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    if code == frames.CHANNEL_LOST:
        return "has lost its descriptors: the handler has closed or replaced them"
    return f"exited with code {code}"

"""A pool of separate handler processes, which a timeout or a cancellation kills."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, assert_never

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import AttemptNotCurrent
from headrace_core.domain.job import JsonText, Progress
from headrace_core.runtime.settings import Settings
from headrace_worker.api.context import Attempt, Reporter
from headrace_worker.api.errors import Fail, Retry
from headrace_worker.api.failure import attach_stack_trace
from headrace_worker.api.payload import PayloadMismatch
from headrace_worker.api.registry import RegisteredHandler
from headrace_worker.runners import frames
from headrace_worker.runners.children import children_of, with_descendants
from headrace_worker.runners.job_log import AttemptLogs
from headrace_worker.runners.loop import ProcessDied, RemoteError
from headrace_worker.runners.memory import MemoryWatch, leaves_room
from headrace_worker.timing import Timing

_CHUNK_BYTES: Final = 2**16
# A message can exceed the limit for results and output by this much, so that the error can state
# its size. The worker does not read larger messages into memory.
_SLACK_BYTES: Final = 16 * 2**20


class _HandlerProcess:
    """A process that runs one handler at a time, and whose child processes end with it."""

    def __init__(self, process: Process, *, max_message_bytes: int, timing: Timing) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._incoming = frames.MessageReader(process.stdout, max_bytes=max_message_bytes)
        self._timing = timing
        # True while the handler waits for the response to a report.
        self.awaits_response = False
        # Receives the log lines of the current run.
        self.on_log: Callable[[frames.Logged | frames.Dropped], None] | None = None
        self._group_end = asyncio.create_task(self._end_group())

    @classmethod
    async def spawn(cls, settings: Settings, timing: Timing) -> _HandlerProcess:
        """Start a process."""
        largest = max(settings.max_result_bytes, settings.max_output_bytes)
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "headrace_worker.runners.process_main",
                frames.encode_log_settings(settings),
                stdin=PIPE,
                stdout=PIPE,
                # The process can import all modules that the worker can import.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                # A new process group, for the process and its children.
                start_new_session=True,
            ),
            max_message_bytes=largest + _SLACK_BYTES,
            timing=timing,
        )

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def send(self, message: frames.ToHandler) -> None:
        """Send a message. If the process has died, the next `receive` raises."""
        if self._stdin.is_closing():
            # uvloop's closing transport does not raise ConnectionError.
            return
        with suppress(ConnectionError):
            self._stdin.write(frames.encode(message))
            await self._stdin.drain()

    async def receive(self) -> frames.Report | frames.Returned | frames.Raised:
        """Wait for the next message that is not a part of the log.

        Raises:
            ProcessDied: the process died.
            Fail: the message is too large.
        """
        try:
            while True:
                message: frames.FromHandler = frames.decode_from_handler(
                    await self._incoming.receive()
                )
                if not isinstance(message, frames.Logged | frames.Dropped):
                    return message
                if self.on_log is not None:
                    self.on_log(message)
        except frames.TooLarge as error:
            raise Fail(
                f"the handler sent {error.size} bytes to its worker in one message; the limit is "
                f"{error.limit}",
                type="LimitExceeded",
            ) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            # A process closes its output when it exits. Killing or polling it now could overwrite
            # its exit code.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.process_exit):
                    await self._process.wait()
            code = await self.kill()
            raise ProcessDied(f"the handler's process {_describe_exit(code)}") from None
        return message

    def abort(self) -> None:
        """Kill the process if it is alive, with its descendants, without waiting."""
        if self.alive:
            # A descendant may be in another session.
            started = with_descendants(children_of(self.pid))
            self._kill_group()
            for pid in started:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def kill(self) -> int | None:
        """Kill the process if it is alive; return its exit code."""
        self.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.process_reap):
                # The output closes only after it has been read completely.
                while await self._stdout.read(_CHUNK_BYTES):
                    pass
                await asyncio.wait({self._group_end})
        self._stdin.close()
        return self._process.returncode

    async def _end_group(self) -> None:
        # Surviving children would be useless, and could keep the output open.
        await self._process.wait()
        self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class ProcessPool:
    """Run handlers in processes, and reuse a process after its handler has ended.

    Args:
        settings: the number of processes, the grace period for cancelled handlers, logs and limits.
        timing: the time for a process to exit.
        log: receives the lines that handlers log; None to store no lines.

    Attributes:
        permits: one permit per process. A caller of `run` must hold one.
    """

    def __init__(
        self, settings: Settings, *, timing: Timing | None = None, log: AttemptLogs | None = None
    ) -> None:
        self._log = log
        self.permits = asyncio.Semaphore(settings.worker_processes)
        self._timing = Timing() if timing is None else timing
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
        """Run a handler in a process; return its result as JSON.

        Args:
            handler: the handler.
            payload: the payload of its job.
            attempt: the attempt, for the handler's context.
            reporter: receives the handler's reports.
            check: called when the process has started; its exception ends the attempt.

        Raises:
            Fail, Retry, PayloadMismatch, RemoteError: the handler's exception. Fail also if the
                process exceeded its memory limit.
            ProcessDied: the process died.
            CancelledError: the caller was cancelled; the handler has ended, or its process is dead.
        """
        run = frames.Run(
            module=handler.function.__module__,
            payload=payload,
            attempt=attempt,
            time_left=max(0.0, attempt.ends - time.monotonic()),
        )
        limit = handler.memory_limit() if callable(handler.memory_limit) else handler.memory_limit
        process = await self._acquire(limit)
        self._busy.add(process)
        process.on_log = partial(self._on_log, attempt.key)
        ended = False
        with MemoryWatch(process.pid, limit, process.abort):
            try:
                check()
                await process.send(run)
                end = await self._forward_reports(process, reporter)
                # After a MemoryError, the process may have too little memory for the next job.
                ended = not (isinstance(end, frames.Raised) and end.type == MemoryError.__name__)
                ended = ended and not end.last
            except asyncio.CancelledError:
                ended = await self._cancel_within_grace(process, reporter)
                raise
            finally:
                self._busy.discard(process)
                if ended and leaves_room(process.pid, limit):
                    self._idle.append(process)
                else:
                    await asyncio.shield(process.kill())
        return _result(end)

    def _on_log(self, key: AttemptKey, message: frames.Logged | frames.Dropped) -> None:
        if self._log is None:
            return
        match message:
            case frames.Logged(line=line):
                self._log.add(key, line)
            case frames.Dropped(lines=lines):
                self._log.note_dropped(key, lines)

    async def close(self) -> None:
        """Kill all processes, including those of handlers that were left behind."""
        for process in self._busy:
            # The caller of `run` receives ProcessDied.
            process.abort()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(process.kill() for process in idle))

    async def _acquire(self, memory_limit: int | None) -> _HandlerProcess:
        while self._idle:
            process = self._idle.pop()
            # An earlier job with a higher limit may have left much memory in use.
            if process.alive and leaves_room(process.pid, memory_limit):
                return process
            await process.kill()
        return await _HandlerProcess.spawn(self._settings, self._timing)

    async def _forward_reports(
        self, process: _HandlerProcess, reporter: Reporter
    ) -> frames.Returned | frames.Raised:
        """Forward the reports of the handler until it ends."""
        while True:
            message = await process.receive()
            if isinstance(message, frames.Returned | frames.Raised):
                return message
            process.awaits_response = True
            response = await _accept(message, reporter)
            process.awaits_response = False
            await process.send(response)

    async def _cancel_within_grace(self, process: _HandlerProcess, reporter: Reporter) -> bool:
        """Cancel the handler; return whether its process can run another handler."""
        try:
            async with asyncio.timeout(self._grace):
                await process.send(frames.Cancel())
                if process.awaits_response:
                    process.awaits_response = False
                    await process.send(frames.Response())
                while not isinstance(
                    message := await process.receive(), frames.Returned | frames.Raised
                ):
                    response = frames.Response()
                    if isinstance(message, frames.Completing):
                        # A handler may still complete its job.
                        response = await _accept(message, reporter)
                    await process.send(response)
        except (TimeoutError, ProcessDied, Fail, AttemptNotCurrent):
            return False
        return not message.last


async def _accept(message: frames.Report, reporter: Reporter) -> frames.Response:
    try:
        match message:
            case frames.Progressed(fraction=fraction, message=text, counters=counters):
                progress = Progress(fraction=fraction, message=text, counters=counters)
                await reporter.progress(progress)
            case frames.Output(chunk=chunk):
                await reporter.output(chunk)
            case frames.Completing(size=size):
                await reporter.prepare_completion(size)
            case _:
                assert_never(message)
    except Fail as refusal:
        return frames.Response(fail=str(refusal))
    return frames.Response()


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


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "hung and could not be killed"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    if code == frames.CHANNEL_LOST:
        return "lost its descriptors: the handler closed or replaced them"
    return f"exited with code {code}"

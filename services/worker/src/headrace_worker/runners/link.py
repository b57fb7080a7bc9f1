"""The handler side of the connection between a worker and a handler process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import BinaryIO

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.job import JsonText, Progress, replace_surrogates
from headrace_core.domain.job_log import LogLine
from headrace_worker.api.errors import Fail
from headrace_worker.runners import frames
from headrace_worker.runners.job_log import LogBudget, LogLimits


class AttemptEnded(Exception):
    """The handler has returned, so code that it left running can no longer report."""


class Link:
    """The connection to the worker; a separate thread runs `receive`.

    Args:
        source: the stream of messages from the worker.
        sink: the stream of messages to the worker.
        loop: runs the `async def` handlers.

    Attributes:
        cancelled: set when the running handler should end.
    """

    def __init__(self, source: BinaryIO, sink: BinaryIO, loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._sink = sink
        self._loop = loop
        self._runs: asyncio.Queue[frames.Run] = asyncio.Queue()
        self._cancel: Callable[[], None] | None = None
        self.cancelled = threading.Event()
        # The pending responses, in the order of the reports.
        self._responses: deque[Future[frames.Response]] = deque()
        self._current: RunReporter | None = None
        self._sending = threading.Lock()

    def receive(self) -> None:
        """Receive the worker's messages until the worker ends."""
        while (body := frames.read_body(self._source)) is not None:
            message = frames.decode_to_handler(body)
            match message:
                case frames.Run():
                    self.cancelled.clear()
                    self._loop.call_soon_threadsafe(self._runs.put_nowait, message)
                case frames.Cancel():
                    self.cancelled.set()
                    self._loop.call_soon_threadsafe(self._call_cancel)
                case frames.Response():
                    response = self._responses.popleft()
                    # The handler may have stopped waiting.
                    if response.set_running_or_notify_cancel():
                        response.set_result(message)

    async def next_run(self) -> frames.Run:
        """Wait for the next run."""
        return await self._runs.get()

    def on_cancel(self, cancel: Callable[[], None] | None) -> None:
        """Set the function that cancels the running `async def` handler; None after its end.

        The loop calls it when the handler should end, possibly more than once.
        """
        self._cancel = cancel
        if self.cancelled.is_set():
            # The cancellation arrived before the handler started.
            self._call_cancel()

    def start_run(self) -> RunReporter:
        """Start a run; return its reporter."""
        self._current = RunReporter(self)
        return self._current

    def end(self, message: frames.Returned | frames.Raised) -> None:
        """End the run. Later reports of its handler raise AttemptEnded."""
        with self._sending:
            self._current = None
            self._write(frames.encode(message))

    def send(self, reporter: RunReporter, message: frames.Report) -> Future[frames.Response]:
        """Send a report of a run; return a future of its response.

        Raises:
            AttemptEnded: the run has ended, so the worker would assign the report to the next run.
        """
        response: Future[frames.Response] = Future()
        # Encode first: a report that cannot be encoded gets no response.
        framed = frames.encode(message)
        with self._sending:
            if reporter is not self._current:
                raise AttemptEnded
            self._responses.append(response)
            self._write(framed)
        return response

    def send_log(self, reporter: RunReporter, message: frames.Logged | frames.Dropped) -> None:
        """Send a part of a run's log, unless the run has ended."""
        framed = frames.encode(message)
        with self._sending:
            if reporter is self._current:
                self._write(framed)

    def _write(self, framed: bytes) -> None:
        self._sink.write(framed)
        self._sink.flush()

    def _call_cancel(self) -> None:
        if self._cancel is not None:
            self._cancel()


class RunReporter:
    """The reports of a run: a Reporter for `async def`; other methods for `def`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._turn = asyncio.Lock()

    def report(self, item: Progress | JsonText) -> None:
        """Report progress or output; return once the worker has accepted it.

        Raises:
            Fail: the worker rejected the report.
            AttemptEnded: the handler has returned.
        """
        _check_response(self._link.send(self, _as_message(item)).result())

    def announce_completion(self, size: int) -> None:
        """Announce a completion from a `def`, like `Reporter.prepare_completion`.

        Raises:
            Fail, AttemptEnded: see `report`.
        """
        _check_response(self._link.send(self, frames.Completing(size=size)).result())

    async def progress(self, progress: Progress) -> None:
        """Report progress, like `report`."""
        await self._send_in_turn(_as_message(progress))

    async def output(self, chunk: JsonText) -> None:
        """Report output, like `report`."""
        await self._send_in_turn(_as_message(chunk))

    async def prepare_completion(self, size: int) -> None:
        """Announce a completion like `announce_completion`."""
        await self._send_in_turn(frames.Completing(size=size))

    async def _send_in_turn(self, message: frames.Report) -> None:
        # At most one report is unanswered, because a full pipe would block the loop.
        async with self._turn:
            _check_response(await asyncio.wrap_future(self._link.send(self, message)))


class RunLog:
    """Sends the lines of a run for the log of its job. Implements `LogSink`.

    Args:
        link: the connection to the worker.
        reporter: the reporter of the run.
        limits: the limits of an attempt.
    """

    def __init__(self, link: Link, reporter: RunReporter, limits: LogLimits) -> None:
        self._link = link
        self._reporter = reporter
        self.limits = limits
        self._budget = LogBudget()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def add(self, _: AttemptKey, line: LogLine) -> None:
        """Send a line, or drop it."""
        # A forked process has no connection, and may have inherited a lock that is never released.
        if os.getpid() != self._pid:
            return
        with self._lock:
            is_admitted = self._budget.admit(line, self.limits)
        if is_admitted:
            # If the worker has died, this process ends soon.
            with suppress(OSError):
                self._link.send_log(self._reporter, frames.Logged(line=line))

    def close(self) -> None:
        """Send the number of dropped lines."""
        if self._budget.dropped:
            self._link.send_log(self._reporter, frames.Dropped(lines=self._budget.dropped))


def _as_message(item: Progress | JsonText) -> frames.Progressed | frames.Output:
    if isinstance(item, Progress):
        return frames.Progressed(
            fraction=item.fraction, message=replace_surrogates(item.message), counters=item.counters
        )
    return frames.Output(chunk=item)


def _check_response(response: frames.Response) -> None:
    if response.fail:
        raise Fail(response.fail, type="LimitExceeded")

"""The end of a worker's connection in the process of its handlers."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import BinaryIO, TypeAlias

from headrace_core.domain.job import JsonText, Progress, valid_text
from headrace_worker.api.errors import Fail
from headrace_worker.runners import frames

# What a run says before its end.
Said: TypeAlias = frames.Progressed | frames.Output | frames.Completing


class AttemptEnded(Exception):
    """The handler has returned: what it has left running can say nothing more."""


class Link:
    """The connection to the worker. A thread of its own reads.

    Args:
        source: where the worker's messages come from.
        sink: where those to the worker go.
        loop: runs the `async def` handlers.

    Attributes:
        cancelled: set when the handler that runs shall end.
    """

    def __init__(self, source: BinaryIO, sink: BinaryIO, loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._sink = sink
        self._loop = loop
        self._runs: asyncio.Queue[frames.Run] = asyncio.Queue()
        self._cancel: Callable[[], None] | None = None
        self.cancelled = threading.Event()
        # The answers that are to come, in the order of what they answer.
        self._answers: deque[Future[frames.Taken]] = deque()
        self._voice: Voice | None = None
        self._saying = threading.Lock()

    def read(self) -> None:
        """Takes what the worker says until it is gone."""
        while (body := frames.read_body(self._source)) is not None:
            message = frames.decode_to_handler(body)
            match message:
                case frames.Run():
                    self.cancelled.clear()
                    self._loop.call_soon_threadsafe(self._runs.put_nowait, message)
                case frames.Cancel():
                    self.cancelled.set()
                    self._loop.call_soon_threadsafe(self._call_cancel)
                case frames.Taken():
                    answer = self._answers.popleft()
                    # Not when the handler no longer waits for it.
                    if answer.set_running_or_notify_cancel():
                        answer.set_result(message)

    async def next_run(self) -> frames.Run:
        """Waits for something to run."""
        return await self._runs.get()

    def on_cancel(self, cancel: Callable[[], None] | None) -> None:
        """Has `cancel` called in the loop, maybe more than once, when the handler shall end.

        None: no `async def` runs any more.
        """
        self._cancel = cancel
        if self.cancelled.is_set():
            # It was told before the handler had begun.
            self._call_cancel()

    def begin(self) -> Voice:
        """What the next run speaks with, until its end."""
        self._voice = Voice(self)
        return self._voice

    def end(self, message: frames.Returned | frames.Raised) -> None:
        """Says how the run has ended, as the last that is heard of it."""
        with self._saying:
            self._voice = None
            self._write(frames.frame(message))

    def say(self, voice: Voice, message: Said) -> Future[frames.Taken]:
        """Says something of a run; what it gives is the answer that is to come.

        Raises:
            AttemptEnded: the run has ended. The worker would take it for the next one's.
        """
        answer: Future[frames.Taken] = Future()
        # First of all: what cannot be said gets no answer.
        framed = frames.frame(message)
        with self._saying:
            if voice is not self._voice:
                raise AttemptEnded
            self._answers.append(answer)
            self._write(framed)
        return answer

    def _write(self, framed: bytes) -> None:
        self._sink.write(framed)
        self._sink.flush()

    def _call_cancel(self) -> None:
        if self._cancel is not None:
            self._cancel()


class Voice:
    """What a run speaks with: Reporter of an `async def`; `report` and `announce` of a `def`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._turn = asyncio.Lock()

    def report(self, item: Progress | JsonText) -> None:
        """Says one thing and waits until it was taken.

        Raises:
            Fail: it was refused.
            AttemptEnded: the handler has returned.
        """
        _check(self._link.say(self, _reported(item)).result())

    def announce(self, size: int) -> None:
        """As `Reporter.completing`, for a `def`.

        Raises:
            Fail, AttemptEnded: as `report`.
        """
        _check(self._link.say(self, frames.Completing(size=size)).result())

    async def progress(self, progress: Progress) -> None:
        """As `report`."""
        await self._say_in_turn(_reported(progress))

    async def output(self, chunk: JsonText) -> None:
        """As `report`."""
        await self._say_in_turn(_reported(chunk))

    async def completing(self, size: int) -> None:
        """As `announce`."""
        await self._say_in_turn(frames.Completing(size=size))

    async def _say_in_turn(self, message: Said) -> None:
        # One at a time: to write more than the worker takes would stop the loop.
        async with self._turn:
            _check(await asyncio.wrap_future(self._link.say(self, message)))


def _reported(item: Progress | JsonText) -> frames.Progressed | frames.Output:
    if isinstance(item, Progress):
        return frames.Progressed(
            fraction=item.fraction, message=valid_text(item.message), counters=item.counters
        )
    return frames.Output(chunk=item)


def _check(answer: frames.Taken) -> None:
    if answer.fail:
        raise Fail(answer.fail, type="LimitExceeded")

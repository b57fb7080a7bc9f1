"""Ends a worker whose event loop no longer turns, from a thread of its own.

While the loop stands still, nothing renews the lease, no cancellation arrives and no signal is
handled: the process holds slots and does no good. Others run its jobs; its supervisor starts it
again.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from types import FrameType
from typing import Final

import structlog

from headrace_core.domain.ids import JobId

_log = structlog.get_logger()

# The process's exit code: EX_SOFTWARE of sysexits.h.
EXIT_CODE: Final = 70

# How often it looks: in seconds at most, and at least so many times within the limit.
_TICK_S: Final = 0.5
_LEAST_TICKS: Final = 10
# How long the last line of the log may take, in seconds: perhaps the log is what blocks the loop.
_LOG_S: Final = 2.0
# What a line about a crowd is long enough with.
_MOST_JOBS: Final = 100
_MOST_FRAMES: Final = 50


class Watchdog:
    """Watches the loop that starts it.

    It counts its own ticks, not seconds: a process that was stopped or suspended as a whole has not
    blocked, however long that was. A handler that keeps Python's interpreter lock in native code
    stops it as well; it looks again once that is over.

    Args:
        limit: for how many seconds the loop may stand still.
        running: the jobs that run, for the log; called in the thread.
        end: ends the process.
    """

    def __init__(
        self,
        *,
        limit: float,
        running: Callable[[], Collection[JobId]],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._tick = min(_TICK_S, limit / _LEAST_TICKS)
        self._limit = limit
        self._running = running
        self._end = end
        self._answered = True
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to watch the loop that runs in this thread."""
        self._thread = threading.Thread(
            target=self._watch,
            args=(asyncio.get_running_loop(), threading.get_ident()),
            name="watchdog",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Watches no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
        silent = 0
        while not self._stopping.wait(self._tick):
            if self._answered:
                self._answered, silent = False, 0
                loop.call_soon_threadsafe(self._answer)
                continue
            silent += 1
            if silent * self._tick >= self._limit:
                self._bark(thread_id)
                return

    def _answer(self) -> None:
        self._answered = True

    def _bark(self, thread_id: int) -> None:
        jobs = self._running()
        telling = threading.Thread(
            target=_log.critical,
            args=("event_loop_blocked",),
            kwargs={
                "limit_s": self._limit,
                "frames": _frames(sys._current_frames().get(thread_id)),  # noqa: SLF001 - documented
                "running": len(jobs),
                "job_ids": [str(job_id) for job_id in list(jobs)[:_MOST_JOBS]],
                "exit_code": EXIT_CODE,
            },
            daemon=True,
        )
        telling.start()
        telling.join(_LOG_S)
        self._end(EXIT_CODE)


def _frames(frame: FrameType | None) -> list[str]:
    """Where a thread is, the outermost call first; no values, since those may be payloads."""
    if frame is None:
        return []
    frames = traceback.StackSummary.extract(
        traceback.walk_stack(frame), limit=_MOST_FRAMES, lookup_lines=False
    )
    return [f"{one.filename}:{one.lineno} {one.name}" for one in reversed(frames)]

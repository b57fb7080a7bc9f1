"""The watchdog that ends a worker whose event loop is blocked.

While the loop is blocked, the process renews no lease, receives no cancellation and handles no
signal. After its end, other workers run its jobs, and its supervisor restarts it.
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

# The exit code of the process: EX_SOFTWARE in sysexits.h.
EXIT_CODE: Final = 70

# The maximum interval between checks in seconds, and the minimum number of checks within the limit.
_MAX_TICK_S: Final = 0.5
_MIN_TICKS: Final = 10
# Seconds to wait for the last log line, because the log itself could be blocking the loop.
_MAX_LOG_S: Final = 2.0
# Maximum numbers of jobs and frames in the last log line.
_MAX_JOBS: Final = 100
_MAX_FRAMES: Final = 50


class Watchdog:
    """A thread that ends the process if the event loop is blocked for too long.

    The watchdog counts its own checks instead of seconds, so time in which the process is suspended
    does not count. A handler that holds the interpreter lock in native code blocks the watchdog
    too. Its checks continue when the lock is released.

    Args:
        limit: the maximum time without an iteration of the loop, in seconds.
        running: returns the running jobs, for the log. The watchdog thread calls it.
        end: ends the process.
    """

    def __init__(
        self,
        *,
        limit: float,
        running: Callable[[], Collection[JobId]],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._tick = min(_MAX_TICK_S, limit / _MIN_TICKS)
        self._limit = limit
        self._running = running
        self._end = end
        self._has_answered = True
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch the loop that runs in this thread."""
        self._thread = threading.Thread(
            target=self._watch,
            args=(asyncio.get_running_loop(), threading.get_ident()),
            name="watchdog",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
        silent = 0
        while not self._stopping.wait(self._tick):
            if self._has_answered:
                self._has_answered, silent = False, 0
                loop.call_soon_threadsafe(self._answer)
                continue
            silent += 1
            if silent * self._tick >= self._limit:
                self._end_process(thread_id)
                return

    def _answer(self) -> None:
        self._has_answered = True

    def _end_process(self, thread_id: int) -> None:
        jobs = self._running()
        logging = threading.Thread(
            target=_log.critical,
            args=("event_loop_blocked",),
            kwargs={
                "limit_s": self._limit,
                "frames": _frames(sys._current_frames().get(thread_id)),  # noqa: SLF001 - documented
                "running": len(jobs),
                "job_ids": [str(job_id) for job_id in list(jobs)[:_MAX_JOBS]],
                "exit_code": EXIT_CODE,
            },
            daemon=True,
        )
        logging.start()
        logging.join(_MAX_LOG_S)
        self._end(EXIT_CODE)


def _frames(frame: FrameType | None) -> list[str]:
    """Return the stack of a thread, outermost call first, without values that could be payloads."""
    if frame is None:
        return []
    frames = traceback.StackSummary.extract(
        traceback.walk_stack(frame), limit=_MAX_FRAMES, lookup_lines=False
    )
    return [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in reversed(frames)]

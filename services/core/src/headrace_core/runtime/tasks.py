"""Functions that end tasks reliably, and run a task to completion."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, TypeVar

import structlog

T = TypeVar("T")

_log = structlog.get_logger()

# Seconds between two cancellations of a task that has not ended.
_CANCEL_INTERVAL_S: Final = 1.0
# The least time between two log lines about ignored exits, in seconds. A handler can raise
# SystemExit arbitrarily often.
_EXIT_LOG_S: Final = 1.0


async def end_tasks(*tasks: asyncio.Future[Any], within: float | None = None) -> None:
    """Cancel tasks and wait until they have ended; ignore their exceptions.

    A cancellation can be lost: redis-py sends with `asyncio.wait_for`, which in Python 3.11 ignores
    a cancellation if the result arrives at the same moment. Running tasks are therefore cancelled
    again. If the caller is cancelled, its cancellation takes effect once the tasks have ended.

    Args:
        tasks: the tasks; the caller's own task must not be one of them.
        within: timeout in seconds, after which tasks may still be running; None to wait for all.
    """
    clock = asyncio.get_running_loop().time
    end = None if within is None else clock() + within
    pending = {task for task in tasks if not task.done()}
    cancelled: asyncio.CancelledError | None = None
    while pending:
        for task in pending:
            task.cancel()
        step_timeout = _CANCEL_INTERVAL_S if end is None else min(_CANCEL_INTERVAL_S, end - clock())
        try:
            await asyncio.wait(pending, timeout=max(0.0, step_timeout))
        except asyncio.CancelledError as error:
            cancelled = error
        pending = {task for task in pending if not task.done()}
        if end is not None and clock() >= end:
            break
    for task in tasks:
        if task.done() and not task.cancelled():
            # asyncio logs exceptions that were never retrieved.
            task.exception()
    if cancelled is not None:
        raise cancelled


def run_to_end(loop: asyncio.AbstractEventLoop, main: asyncio.Future[T]) -> T:
    """Run `main` to completion, even if other tasks or callbacks try to stop the loop.

    If a task or callback raises SystemExit or KeyboardInterrupt, or calls `loop.stop()`, asyncio
    returns to the caller of the loop. This function then continues the loop, so only the task that
    raised ends. At most one log line per second reports these exits.

    Raises:
        BaseException: the exception of `main`.
    """
    ignored, next_line = 0, 0.0
    while True:
        try:
            return loop.run_until_complete(main)
        except (SystemExit, KeyboardInterrupt, RuntimeError) as error:
            if main.done() or loop.is_closed():
                raise
            ignored += 1
            if (now := time.monotonic()) >= next_line:
                _log.error("loop_exit_ignored", error_type=type(error).__name__, exits=ignored)
                ignored, next_line = 0, now + _EXIT_LOG_S

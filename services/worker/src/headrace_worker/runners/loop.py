"""Running handlers in an event loop, and the errors that runners raise."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from headrace_worker.api.failure import attach_stack_trace, describe, stack_trace
from headrace_worker.runners.children import exit_if_forked


class ProcessDied(Exception):
    """A handler's process died. The message contains the exit code or the signal."""


class RemoteError(Exception):
    """A handler's exception that cannot be passed as an object: its name and message."""

    def __init__(self, type: str, message: str, stack_trace: str = "") -> None:  # noqa: A002
        super().__init__(message)
        self.type = type
        attach_stack_trace(self, stack_trace)


def as_exception(error: BaseException) -> Exception:
    """Return a handler's exception in a form that tasks and futures can carry.

    A SystemExit in a task would end the event loop with all its attempts. A future rejects a
    StopIteration, so the task that awaits it would wait forever.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RemoteError(type(error).__name__, describe(error), stack_trace(error))


async def call(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Run a handler in the event loop and return its result.

    Raises:
        Exception: the handler's exception; RemoteError for a SystemExit or KeyboardInterrupt.
    """
    pid = os.getpid()
    try:
        result = await function(*arguments)
    except BaseException as error:
        exit_if_forked(pid, 1)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise as_exception(error) from error
        raise
    exit_if_forked(pid, 0)
    return result

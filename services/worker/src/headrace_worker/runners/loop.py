"""The runner of handlers in an event loop, and the errors that runners raise."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from headrace_worker.api.failure import attach_stack_trace, describe, stack_trace
from headrace_worker.runners.children import leave_fork


class ProcessDied(Exception):
    """The process of a handler died; the message states the exit code or the signal."""


class RemoteError(Exception):
    """The name and message of a handler's exception that cannot be passed as an object."""

    def __init__(self, type: str, message: str, stack_trace: str = "") -> None:  # noqa: A002
        super().__init__(message)
        self.type = type
        attach_stack_trace(self, stack_trace)


def as_exception(error: BaseException) -> Exception:
    """Return an exception of a handler in a form that tasks and futures can carry.

    A SystemExit in a task would end the event loop with all its attempts. A future rejects a
    StopIteration, so its waiter would wait forever.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RemoteError(type(error).__name__, describe(error), stack_trace(error))


async def call(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Run a handler in the event loop and return its result.

    Raises:
        Exception: the exception of the handler; a SystemExit or KeyboardInterrupt as RemoteError.
    """
    pid = os.getpid()
    try:
        result = await function(*arguments)
    except BaseException as error:
        leave_fork(pid, 1)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise as_exception(error) from error
        raise
    leave_fork(pid, 0)
    return result

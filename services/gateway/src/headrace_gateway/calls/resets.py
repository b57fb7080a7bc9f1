"""Resets calls whose clients do not read the status."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any, Final, Protocol

import structlog

_log = structlog.get_logger()

# Seconds in which due calls are collected for one reset, because a reset scans all tasks of the
# loop.
_ROUND_S: Final = 1.0

# The name of the grpc.aio task that keeps a call until its client has received the status.
_KEEPER_TASK_NAME: Final = "rpc_task"

_Task = asyncio.Task[Any]


class Counts(Protocol):
    """The counters of slow readers.

    Attributes:
        slow_consumers: streams that ended because their client stopped reading.
        resets: calls that were reset because their client did not even read the status.
    """

    slow_consumers: int
    resets: int


class Resets:
    """Resets calls that cannot end, so that the process does not keep their messages.

    The status of a call is sent after its last message. While HTTP/2 flow control blocks that
    message, grpc.aio keeps the call and the message until the connection closes. grpc.aio has no
    function that abandons a call. But gRPC's core resets a call when the last reference to it is
    dropped, and the client receives CANCELLED. (grpc.aio itself keeps the newest call until the
    next call arrives.)

    Args:
        counts: counts the resets.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._due: set[_Task] = set()
        self._timer: asyncio.TimerHandle | None = None

    def reset_after(self, seconds: float) -> None:
        """Reset the call of the current task after `seconds`, unless the call has ended by then."""
        task = asyncio.current_task()
        assert task is not None, "a task handles each call"
        timer = asyncio.get_running_loop().call_later(seconds, self._add_due, task)
        task.add_done_callback(lambda _: timer.cancel())

    def _add_due(self, task: _Task) -> None:
        self._due.add(task)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_ROUND_S, self._reset_due)

    def _reset_due(self) -> None:
        due, self._due, self._timer = {task for task in self._due if not task.done()}, set(), None
        keepers = list(_keepers(due))
        for task in (*keepers, *due):
            task.cancel()
        self._counts.resets += len(due)
        if due:
            _log.info("calls_reset", calls=len(due))
        if len(keepers) < len(due):
            # This grpc.aio version uses different tasks, so these calls stay until their
            # connections close.
            _log.warning("calls_not_reset", calls=len(due) - len(keepers))


def _keepers(tasks: set[_Task]) -> Iterator[_Task]:
    """Yield the grpc.aio tasks that keep the calls of `tasks`.

    A call has no reference to its keeper, but a variable of the keeper's coroutine contains the
    task of the call.
    """
    for keeper in asyncio.all_tasks() if tasks else ():
        if keeper.get_name() == _KEEPER_TASK_NAME:
            for variables in gc.get_referents(keeper.get_coro()):
                if any(
                    isinstance(variable, asyncio.Task) and variable in tasks
                    for variable in gc.get_referents(variables)
                ):
                    yield keeper

"""The last resort for a call whose end nobody reads."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any, Final

import structlog

from headrace_gateway.streams import Gauges

_log = structlog.get_logger()

# Calls that fall due within so many seconds are reset together, as it takes a look at every task.
_ROUND: Final = 1.0

# What grpc.aio calls the task that keeps a call until it has ended for its client as well.
_KEEPER: Final = "rpc_task"

_Task = asyncio.Task[Any]


class Resets:
    """Resets calls that cannot end, so that nothing of them stays in the process.

    The status of a call goes behind the message that was written last. While HTTP/2's flow control
    holds that back, grpc.aio keeps the call and the message, for as long as the connection lives.
    It has no way to give up a call: the reset is what its core does when nobody holds the call any
    more. (grpc.aio itself holds the newest call until another one comes.) The client sees CANCELLED
    then.

    Args:
        gauges: counts the resets.
    """

    def __init__(self, *, gauges: Gauges) -> None:
        self._gauges = gauges
        self._due: set[_Task] = set()
        self._round: asyncio.TimerHandle | None = None

    def bound(self, seconds: float) -> None:
        """Resets the call that the current task handles, unless it has ended within `seconds`."""
        task = asyncio.current_task()
        assert task is not None, "a call is handled in a task"
        timer = asyncio.get_running_loop().call_later(seconds, self._fall_due, task)
        task.add_done_callback(lambda _: timer.cancel())

    def _fall_due(self, task: _Task) -> None:
        self._due.add(task)
        if self._round is None:
            self._round = asyncio.get_running_loop().call_later(_ROUND, self._reset)

    def _reset(self) -> None:
        due, self._due, self._round = {task for task in self._due if not task.done()}, set(), None
        keepers = list(_keepers(due))
        for task in (*keepers, *due):
            task.cancel()
        self._gauges.resets += len(due)
        if due:
            _log.info("calls_reset", calls=len(due))
        if len(keepers) < len(due):
            # Another version of grpc.aio; what they hold stays until their clients are gone.
            _log.warning("calls_not_reset", calls=len(due) - len(keepers))


def _keepers(tasks: set[_Task]) -> Iterator[_Task]:
    """The tasks of grpc.aio that keep the calls which `tasks` handle.

    Nothing leads from a call to its keeper, but the keeper's coroutine has the other task among its
    variables.
    """
    for keeper in asyncio.all_tasks() if tasks else ():
        if keeper.get_name() == _KEEPER:
            for variables in gc.get_referents(keeper.get_coro()):
                if any(
                    isinstance(variable, asyncio.Task) and variable in tasks
                    for variable in gc.get_referents(variables)
                ):
                    yield keeper

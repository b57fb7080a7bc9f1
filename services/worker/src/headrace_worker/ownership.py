"""Which attempt a task of the event loop belongs to, and which tasks its handler may cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import structlog

T = TypeVar("T")

_log = structlog.get_logger()


class Owner(Protocol):
    """An attempt, or the worker.

    Attributes:
        forked: the child processes that it has forked in the event loop.
    """

    forked: set[int]


class _Worker:
    def __init__(self) -> None:
        self.forked: set[int] = set()


# On whose behalf a context runs code: an attempt, or the worker. Tasks and callbacks inherit it.
# Threads that a handler starts do not, so None may be anyone.
_owner: ContextVar[Owner | None] = ContextVar("owner", default=None)
_WORKER = _Worker()


def own_process() -> None:
    """Mark this context, and those that descend from it, as the worker's own.

    From now on, code without an owner cannot cancel the worker's tasks either.
    """
    _owner.set(_WORKER)
    OwnedTask.strict = True


def owner() -> Owner | None:
    """On whose behalf this code runs; None when that is unknown."""
    return _owner.get()


@contextmanager
def owned_by(attempt: Owner | None) -> Iterator[None]:
    """Run the block on behalf of an attempt; None for code that must not count as the worker's."""
    token = _owner.set(attempt)
    try:
        yield
    finally:
        # A handler that was left behind is closed in whichever context collects it.
        with suppress(ValueError):
            _owner.reset(token)


class OwnedTask(asyncio.Task[T]):
    """A task that knows its attempt.

    A handler can cancel neither the tasks of the worker nor the main task of another attempt:
    `cancel` returns False, as for a task that has ended.

    Args:
        attempt: the attempt of which this is the main task; None for any other task.

    Attributes:
        strict: whether code without an owner counts as foreign.
        cancelled_by_others: whether something other than its own attempt has cancelled it.
    """

    strict = False

    def __init__(self, *arguments: Any, attempt: Owner | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        owner = _owner.get()
        self._attempt = owner if attempt is None else attempt
        self._guarded = attempt is not None or owner is _WORKER
        self.cancelled_by_others = False

    def cancel(self, msg: Any | None = None) -> bool:
        """As asyncio.Task.cancel."""
        caller = _owner.get()
        if caller is not self._attempt:
            known = caller is not None or self.strict
            if self._guarded and known and caller is not _WORKER:
                _log.warning(
                    "cancel_ignored",
                    task=self.get_name(),
                    by=None if caller is None else str(caller),
                )
                return False
            self.cancelled_by_others = True
        return super().cancel(msg)

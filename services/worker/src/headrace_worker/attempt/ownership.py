"""Which attempt a task of the event loop belongs to, and which tasks its handler may cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import structlog

from headrace_core.domain.attempt import AttemptKey

T = TypeVar("T")

_log = structlog.get_logger()


class Owner:
    """An attempt, or the worker, as the owner of tasks.

    Tasks and contexts that a handler leaves keep it alive, so it does not hold the attempt.

    Args:
        key: the attempt; None for the worker.

    Attributes:
        forked: the child processes that the attempt has forked in the event loop.
    """

    __slots__ = ("_key", "forked")

    def __init__(self, key: AttemptKey | None = None) -> None:
        self._key = key
        self.forked: set[int] = set()

    def __str__(self) -> str:
        return str(self._key)


# On whose behalf a context runs code: an attempt, or the worker. Tasks and callbacks inherit it.
# Threads that a handler starts do not, so None may be anyone.
_owner: ContextVar[Owner | None] = ContextVar("owner", default=None)
_WORKER = Owner()


def own_process() -> None:
    """Mark this context, and those that descend from it, as the worker's own.

    From now on, code without an owner cannot cancel the worker's tasks either.
    """
    own_context(_WORKER)
    OwnedTask.strict = True


def owning_attempt() -> Owner | None:
    """On behalf of which attempt this code runs; None for the worker, or when that is unknown."""
    owner = _owner.get()
    return None if owner is _WORKER else owner


def own_context(owner: Owner) -> None:
    """Run the rest of this context, and those that descend from it, on behalf of an owner."""
    _owner.set(owner)


@contextmanager
def owned_by(owner: Owner | None) -> Iterator[None]:
    """Run the block on behalf of an owner; None for code that must not count as the worker's."""
    token = _owner.set(owner)
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
        main_of: the attempt of which this is the main task; None for any other task.

    Attributes:
        strict: whether code without an owner counts as foreign.
        cancelled_by_others: whether something other than its own attempt has cancelled it.
    """

    strict = False

    def __init__(self, *arguments: Any, main_of: Owner | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # The factory runs in the context of the creator, the task in the one that it is given.
        context = options.get("context")
        owner = _owner.get() if context is None else context.get(_owner)
        self._owner = owner if main_of is None else main_of
        self._guarded = main_of is not None or owner is _WORKER
        self._has_refused = False
        self.cancelled_by_others = False

    def cancel(self, msg: Any | None = None) -> bool:
        """As asyncio.Task.cancel."""
        caller = _owner.get()
        if caller is not self._owner:
            known = caller is not None or self.strict
            if self._guarded and known and caller is not _WORKER:
                if not self._has_refused:
                    # Once for each task, or a handler could flood the log.
                    self._has_refused = True
                    _log.warning(
                        "cancel_ignored",
                        task=self.get_name(),
                        by=None if caller is None else str(caller),
                    )
                return False
            self.cancelled_by_others = True
        return super().cancel(msg)

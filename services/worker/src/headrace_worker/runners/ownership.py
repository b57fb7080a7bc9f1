"""Task ownership: the attempt that code belongs to, and the tasks that it may cancel."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import structlog

from headrace_core.domain.attempt import AttemptKey
from headrace_worker.runners.attempt_log import AttemptLog

T = TypeVar("T")

_log = structlog.get_logger()


class Owner:
    """An attempt, or the worker, as the owner of tasks and log lines.

    Tasks and contexts that outlive a handler keep its owner alive, so an owner does not refer to
    the Execution.

    Args:
        key: the attempt; None for the worker.
        log: the log of the attempt; None before it exists.

    Attributes:
        forked: the child processes that the attempt has forked in the event loop.
    """

    __slots__ = ("_key", "forked", "log")

    def __init__(self, key: AttemptKey | None = None, log: AttemptLog | None = None) -> None:
        self._key = key
        self.log = log
        self.forked: set[int] = set()

    def __str__(self) -> str:
        return str(self._key)


# The owner of the code in a context. Tasks and callbacks inherit it. Threads that a handler starts
# do not inherit it, so None means that the owner is unknown: a handler or a library.
_owner: ContextVar[Owner | None] = ContextVar("owner", default=None)
_WORKER = Owner()


def own_process() -> None:
    """Mark this context and its descendants as the worker's own.

    From then on, code without an owner cannot cancel the worker's tasks either.
    """
    own_context(_WORKER)
    OwnedTask.strict = True


def owning_attempt() -> Owner | None:
    """Return the attempt that this code belongs to; None for the worker or an unknown owner."""
    owner = _owner.get()
    return None if owner is _WORKER else owner


def current_log() -> AttemptLog | None:
    """Return the log of the attempt that this code belongs to; None for the worker."""
    owner = _owner.get()
    return None if owner is None else owner.log


def own_context(owner: Owner) -> None:
    """Set the owner of this context and its descendants."""
    _owner.set(owner)


def owned_context(owner: Owner) -> contextvars.Context:
    """Return a copy of this context with another owner."""
    context = contextvars.copy_context()
    context.run(own_context, owner)
    return context


@contextmanager
def owned_by(owner: Owner) -> Iterator[None]:
    """Run the block with another owner."""
    token = _owner.set(owner)
    try:
        yield
    finally:
        # The garbage collector may close an abandoned handler in another context.
        with suppress(ValueError):
            _owner.reset(token)


class OwnedTask(asyncio.Task[T]):
    """A task that knows its owner.

    A handler can cancel neither the tasks of the worker nor the main task of another attempt:
    `cancel` returns False, as for a task that has ended.

    Args:
        main_of: the attempt whose main task this is; None for any other task.

    Attributes:
        strict: True if code without an owner may not cancel.
        cancelled_by_others: True after another owner's code has cancelled the task.
    """

    strict = False

    def __init__(self, *arguments: Any, main_of: Owner | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # The task factory runs in the creator's context, the task itself in the context in
        # `options`.
        context = options.get("context")
        owner = _owner.get() if context is None else context.get(_owner)
        self._owner = owner if main_of is None else main_of
        self._guarded = main_of is not None or owner is _WORKER
        self._has_refused = False
        self.cancelled_by_others = False

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the task like asyncio.Task.cancel, if the caller may cancel it."""
        caller = _owner.get()
        if caller is not self._owner:
            known = caller is not None or self.strict
            if self._guarded and known and caller is not _WORKER:
                if not self._has_refused:
                    # Once per task, so that a handler cannot flood the log.
                    self._has_refused = True
                    _log.warning(
                        "cancel_ignored",
                        task=self.get_name(),
                        by=None if caller is None else str(caller),
                    )
                return False
            self.cancelled_by_others = True
        return super().cancel(msg)

"""Ownership: the attempt that code belongs to, the tasks that it may cancel, and its log rate."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import structlog

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.job_log import LogLine
from headrace_worker.api.context import Attempt
from headrace_worker.api.failure import is_library
from headrace_worker.runners.job_log import LogSink

T = TypeVar("T")

_log = structlog.get_logger()


# The maximum burst of lines, and the maximum lines per second, of one attempt and of the process.
_ATTEMPT_RATE: Final = (200, 20.0)
_PROCESS_RATE: Final = (2000, 500.0)


class _TokenBucket:
    """A token bucket.

    Args:
        burst: the maximum number of lines at once.
        per_second: the number of lines added per second.
    """

    def __init__(self, burst: int, per_second: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = float(burst)
        self._time = time.monotonic()
        self._lock = threading.Lock()

    def allow(self) -> bool:
        """Return True and count the line if it is within the rate."""
        with self._lock:
            now = time.monotonic()
            self._left = min(self._burst, self._left + (now - self._time) * self._per_second)
            self._time = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


_process_bucket = _TokenBucket(*_PROCESS_RATE)


class Owner:
    """An attempt, or the worker, as the owner of tasks and log lines.

    Tasks and contexts that outlive a handler keep its owner alive, so an owner does not refer to
    the Execution. Most attempts log nothing, so nothing is allocated for their lines in advance.

    Args:
        key: the attempt; None for the worker.
        type, correlation_id: the type and correlation id of its job.
        module: the module of its handler.
        log: receives its lines for the log of its job; None to store no lines.

    Attributes:
        forked: the child processes that the attempt has forked in the event loop.
    """

    __slots__ = ("_bucket", "_dropped", "_identity", "_key", "_log", "_module", "forked")

    def __init__(
        self,
        key: AttemptKey | None = None,
        *,
        type: str = "",  # noqa: A002 - the field name in the log
        correlation_id: str | None = None,
        module: str = "",
        log: LogSink | None = None,
    ) -> None:
        self._key = key
        self._identity = (type, correlation_id)
        self._module = module
        self._log = log
        self._bucket: _TokenBucket | None = None
        self._dropped = 0
        self.forked: set[int] = set()

    @classmethod
    def of(cls, attempt: Attempt, *, module: str, log: LogSink | None) -> Owner:
        """Return the owner of an attempt whose handler is in `module`."""
        return cls(
            attempt.key,
            type=attempt.type,
            correlation_id=attempt.correlation_id,
            module=module,
            log=log,
        )

    def __str__(self) -> str:
        return str(self._key)

    def is_own_code(self, path: str, name: str) -> bool:
        """Return whether a line comes from the handler's own code, not from a library.

        Args:
            path: the file of the code that logs the line.
            name: the name of the logger or the module.
        """
        return not is_library(path) or name.partition(".")[0] == self._module.partition(".")[0]

    def stores(self, level: int) -> bool:
        """Return whether lines with a level belong to the log of the job."""
        return self._log is not None and self._log.limits.accepts(level)

    def store(self, line: LogLine) -> None:
        """Add a line to the log of the job."""
        assert self._key is not None
        if self._log is not None:
            self._log.add(self._key, line)

    def allow(self) -> bool:
        """Return True and count the line if it is within the rate."""
        if self._bucket is None:
            self._bucket = _TokenBucket(*_ATTEMPT_RATE)
        if self._bucket.allow() and _process_bucket.allow():
            return True
        self._dropped += 1
        return False

    def with_facts(self, line: Mapping[str, Any]) -> structlog.types.EventDict:
        """Return a line with the fields of the attempt; equal names in the line get a suffix."""
        facts = self._fields()
        return {f"{name}_" if name in facts else name: line[name] for name in line} | facts

    def close_log(self) -> None:
        """Log the number of dropped lines."""
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("handler_log_dropped", lines=dropped, **self._fields())

    def _fields(self) -> dict[str, Any]:
        assert self._key is not None
        job_id, attempt = self._key
        job_type, correlation_id = self._identity
        return {
            "job_id": str(job_id),
            "attempt": attempt,
            "type": job_type,
            "correlation_id": correlation_id,
            "source": "handler",
        }


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

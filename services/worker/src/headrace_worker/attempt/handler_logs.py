"""The log lines of handlers: `logging` and structlog calls, with the job that they belong to.

A line of a handler has its job, attempt, type and correlation id. It is bounded in size, and the
lines of an attempt are bounded in rate, so that no handler can flood the worker's log.
"""

from __future__ import annotations

import json
import logging
import reprlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

import structlog

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.text import clean_line, clean_text
from headrace_worker.attempt.failure import is_library, stack_trace

_log = structlog.get_logger()

# A line may have this many bytes, so that the write of a process of handlers to the pipe that it
# shares with its worker is atomic. pipe(7): PIPE_BUF is 4,096.
_MAX_LINE: Final = 3500
_MIN_ROOM: Final = 50
_MAX_FIELDS: Final = 32
_MAX_NAME: Final = 64
_MAX_MESSAGE: Final = 1500
_MAX_VALUE: Final = 500
_MAX_ITEMS: Final = 20
_MAX_DEPTH: Final = 3

# Lines of one attempt, and of all attempts of the process: at once, and for each second.
_ATTEMPT_RATE: Final = (200, 20.0)
_PROCESS_RATE: Final = (2000, 500.0)

# Modules that take part in a call to a logger.
_LOGGING: Final = ("structlog.", "logging", __name__)
_OWN: Final = ("headrace_worker.", "headrace_core.", "headrace_health.")

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother, _repr.maxlong = _MAX_DEPTH, 200, _MAX_VALUE, 100


class _Rate:
    """A token bucket.

    Args:
        burst: how many at once.
        each_second: how many more for each second.
    """

    def __init__(self, burst: int, each_second: float) -> None:
        self._burst = burst
        self._each_second = each_second
        self._left = float(burst)
        self._time = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Return whether one more is within the rate."""
        with self._lock:
            now = time.monotonic()
            self._left = min(self._burst, self._left + (now - self._time) * self._each_second)
            self._time = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


class AttemptLog:
    """The log lines of one attempt. Most attempts log nothing, so nothing is prepared.

    Args:
        key, type, correlation_id: of the attempt.
        module: the module of its handler.
    """

    __slots__ = ("_dropped", "_facts", "_module", "_rate")

    def __init__(
        self,
        *,
        key: AttemptKey,
        type: str,  # noqa: A002 - the name in the line
        correlation_id: str | None,
        module: str,
    ) -> None:
        self._facts = (key, type, correlation_id)
        self._module = module
        self._rate: _Rate | None = None
        self._dropped = 0

    @property
    def package(self) -> str:
        """The package of the handler's module."""
        return self._module.partition(".")[0]

    def take(self) -> bool:
        """Return whether one more line is within the rate."""
        if self._rate is None:
            self._rate = _Rate(*_ATTEMPT_RATE)
        if self._rate.take() and _process_rate.take():
            return True
        self._dropped += 1
        return False

    def line(self, event: structlog.types.EventDict) -> structlog.types.EventDict:
        """Return a bounded line with the facts of the attempt."""
        try:
            bounded = _bounded(event)
        except BaseException as error:  # noqa: BLE001 - a class of the handler decides
            bounded = {"event": "log_line_failed", "error_type": type(error).__name__}
        facts = self._shown()
        line = {f"{name}_" if name in facts else name: bounded[name] for name in bounded}
        return line | facts

    def close(self) -> None:
        """Log how many lines were dropped."""
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("handler_log_dropped", lines=dropped, **self._shown())

    def _shown(self) -> dict[str, Any]:
        (job_id, attempt), job_type, correlation_id = self._facts
        return {
            "job_id": str(job_id),
            "attempt": attempt,
            "type": job_type,
            "correlation_id": correlation_id,
            "source": "handler",
        }


_process_rate = _Rate(*_PROCESS_RATE)
_current: ContextVar[AttemptLog | None] = ContextVar("attempt_log", default=None)


def log_as(attempt_log: AttemptLog) -> None:
    """Let this context, and those that descend from it, log as an attempt."""
    _current.set(attempt_log)


@contextmanager
def logging_as(attempt_log: AttemptLog) -> Iterator[None]:
    """Let the block, and the tasks that it starts, log as an attempt."""
    token = _current.set(attempt_log)
    try:
        yield
    finally:
        # A handler that was left behind is closed in whichever context collects it.
        with suppress(ValueError):
            _current.reset(token)


class HandlerLines:
    """Decides about the lines that are logged while a handler runs (`logs.ForeignLines`)."""

    def filter(self, record: logging.LogRecord) -> bool:
        """As ForeignLines.filter.

        Below WARNING, a library may log payloads with each call: only the handler's code counts.
        """
        attempt = _current.get()
        if record.levelno < logging.WARNING and (
            attempt is None
            or (is_library(record.pathname) and record.name.partition(".")[0] != attempt.package)
        ):
            return False
        return attempt is None or attempt.take()

    def __call__(
        self, _: Any, __: str, event: structlog.types.EventDict, /
    ) -> structlog.types.EventDict:
        """As ForeignLines.__call__."""
        attempt = _current.get()
        if attempt is None:
            return event
        # A record of the standard library has passed the filter.
        if "_record" not in event:
            if _logs_for_the_worker():
                return event
            if not attempt.take():
                raise structlog.DropEvent
        return attempt.line(event)


def _logs_for_the_worker() -> bool:
    """Whether the worker's own code logs, on its way to or from a handler."""
    frame = sys._getframe(2)  # noqa: SLF001 - the only way to the caller
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(_LOGGING):
            return name.startswith(_OWN)
        frame = frame.f_back  # type: ignore[assignment]
    return True


# Bounds.


def _bounded(event: structlog.types.EventDict) -> dict[str, Any]:
    line: dict[str, Any] = {}
    kept = {name: event[name] for name in ("_record", "_from_structlog") if name in event}
    trace = _trace(event)
    left = _MAX_LINE
    # The message first: it must be the last to be left out.
    fields = {"event": event.get("event", ""), **event}
    for name, value in fields.items():
        if name in kept or name == "exc_info":
            continue
        name = clean_line(str(name), _MAX_NAME)  # noqa: PLW2901
        left -= _size(name) + len(": , ")
        if left < _MIN_ROOM or len(line) == _MAX_FIELDS:
            break
        fitted = _fit(_plain(value, _MAX_MESSAGE if name == "event" else _MAX_VALUE), left)
        left -= _size(fitted)
        line[name] = fitted
    if trace and left > _MIN_ROOM:
        # Its end is where the exception was raised.
        line["stack_trace"] = _fit(trace, left, tail=True)
    return line | kept


def _trace(event: structlog.types.EventDict) -> str:
    error = event.get("exc_info")
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple) and len(error) == 3:
        error = error[1]
    return stack_trace(error) if isinstance(error, BaseException) else ""


def _plain(value: Any, longest: int, depth: int = 0) -> Any:
    """A value as JSON can represent it, bounded; objects by their representation."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return int(value)
    if isinstance(value, str):
        return clean_text(value, longest)
    if depth < _MAX_DEPTH and isinstance(value, Mapping | list | tuple | set | frozenset):
        try:
            return _plain_items(value, longest, depth + 1)
        except Exception:  # noqa: BLE001 - a container of the handler's own
            return f"<{type(value).__name__}>"
    try:
        return clean_text(_repr.repr(value), longest)
    except BaseException:  # noqa: BLE001 - the handler's class decides what it raises
        return f"<{type(value).__name__}>"


def _plain_items(value: Any, longest: int, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {
            clean_line(str(key), _MAX_NAME): _plain(item, longest, depth)
            for _, (key, item) in zip(range(_MAX_ITEMS), value.items(), strict=False)
        }
    return [_plain(item, longest, depth) for _, item in zip(range(_MAX_ITEMS), value, strict=False)]


def _size(value: Any) -> int:
    return len(json.dumps(value))


def _fit(value: Any, room: int, *, tail: bool = False) -> Any:
    """The value, or as much of its text as fits into so many bytes of JSON."""
    size = _size(value)
    if size <= room:
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    # By the share of its characters that JSON escapes.
    keep = max(0, room) * len(text) // (_size(text) + 1)
    while keep and _size(text[-keep:] if tail else text[:keep]) > room:
        keep = keep * 3 // 4
    if keep < 1:
        return "…"
    return f"…{text[-keep:]}" if tail else f"{text[:keep]}…"

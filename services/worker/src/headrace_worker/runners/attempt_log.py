"""The log of one attempt: its handler's lines, limited in size and rate.

The limits keep a handler from flooding the worker's log.
"""

from __future__ import annotations

import json
import reprlib
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.text import clean_line, clean_text
from headrace_worker.api.failure import stack_trace

_log = structlog.get_logger()

# Maximum size of a line in bytes. A handler process shares a pipe with its worker, and lines of
# this size are written atomically. pipe(7): PIPE_BUF is 4,096.
_MAX_LINE: Final = 3500
_MIN_ROOM: Final = 50
_MAX_FIELDS: Final = 32
_MAX_NAME: Final = 64
_MAX_MESSAGE: Final = 1500
_MAX_VALUE: Final = 500
_MAX_ITEMS: Final = 20
_MAX_DEPTH: Final = 3

# The maximum burst of lines, and the maximum lines per second, of one attempt and of the process.
_ATTEMPT_RATE: Final = (200, 20.0)
_PROCESS_RATE: Final = (2000, 500.0)

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother, _repr.maxlong = _MAX_DEPTH, 200, _MAX_VALUE, 100


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


class AttemptLog:
    """The log lines of one attempt. Most attempts log nothing, so nothing is allocated in advance.

    Args:
        key: the attempt.
        type, correlation_id: the type and correlation id of its job.
        module: the module of its handler.
    """

    __slots__ = ("_bucket", "_dropped", "_identity", "_module")

    def __init__(
        self,
        *,
        key: AttemptKey,
        type: str,  # noqa: A002 - the field name in the log
        correlation_id: str | None,
        module: str,
    ) -> None:
        self._identity = (key, type, correlation_id)
        self._module = module
        self._bucket: _TokenBucket | None = None
        self._dropped = 0

    @property
    def package(self) -> str:
        """The package of the handler's module."""
        return self._module.partition(".")[0]

    def allow(self) -> bool:
        """Return True and count the line if it is within the rate."""
        if self._bucket is None:
            self._bucket = _TokenBucket(*_ATTEMPT_RATE)
        if self._bucket.allow() and _process_bucket.allow():
            return True
        self._dropped += 1
        return False

    def line(self, event: structlog.types.EventDict) -> structlog.types.EventDict:
        """Return the line of `event` within the limits, with the fields of the attempt."""
        try:
            bounded = _bounded(event)
        except BaseException as error:  # noqa: BLE001 - a handler's class may raise anything
            bounded = {"event": "log_line_failed", "error_type": type(error).__name__}
        facts = self._fields()
        line = {f"{name}_" if name in facts else name: bounded[name] for name in bounded}
        return line | facts

    def close(self) -> None:
        """Log the number of dropped lines."""
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("handler_log_dropped", lines=dropped, **self._fields())

    def _fields(self) -> dict[str, Any]:
        (job_id, attempt), job_type, correlation_id = self._identity
        return {
            "job_id": str(job_id),
            "attempt": attempt,
            "type": job_type,
            "correlation_id": correlation_id,
            "source": "handler",
        }


_process_bucket = _TokenBucket(*_PROCESS_RATE)


# Limits.


def _bounded(event: structlog.types.EventDict) -> dict[str, Any]:
    line: dict[str, Any] = {}
    kept = {name: event[name] for name in ("_record", "_from_structlog") if name in event}
    trace = _stack_trace_of(event)
    left = _MAX_LINE
    # The message is dropped last, so it is the first field.
    fields = {"event": event.get("event", ""), **event}
    for name, value in fields.items():
        if name in kept or name == "exc_info":
            continue
        name = clean_line(str(name), _MAX_NAME)  # noqa: PLW2901
        left -= _size(name) + len(": , ")
        if left < _MIN_ROOM or len(line) == _MAX_FIELDS:
            break
        fitted = _fit(_to_json_value(value, _MAX_MESSAGE if name == "event" else _MAX_VALUE), left)
        left -= _size(fitted)
        line[name] = fitted
    if trace and left > _MIN_ROOM:
        # Keep the end of the trace, which shows the line that raised the exception.
        line["stack_trace"] = _fit(trace, left, tail=True)
    return line | kept


def _stack_trace_of(event: structlog.types.EventDict) -> str:
    error = event.get("exc_info")
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple) and len(error) == 3:
        error = error[1]
    return stack_trace(error) if isinstance(error, BaseException) else ""


def _to_json_value(value: Any, max_length: int, depth: int = 0) -> Any:
    """Return a bounded copy of a value that JSON can represent; other objects as their `repr`."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return int(value)
    if isinstance(value, str):
        return clean_text(value, max_length)
    if depth < _MAX_DEPTH and isinstance(value, Mapping | list | tuple | set | frozenset):
        try:
            return _to_json_items(value, max_length, depth + 1)
        except Exception:  # noqa: BLE001 - a handler's container class may raise anything
            return f"<{type(value).__name__}>"
    try:
        return clean_text(_repr.repr(value), max_length)
    except BaseException:  # noqa: BLE001 - a handler's class may raise anything
        return f"<{type(value).__name__}>"


def _to_json_items(value: Any, max_length: int, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {
            clean_line(str(key), _MAX_NAME): _to_json_value(item, max_length, depth)
            for _, (key, item) in zip(range(_MAX_ITEMS), value.items(), strict=False)
        }
    return [
        _to_json_value(item, max_length, depth)
        for _, item in zip(range(_MAX_ITEMS), value, strict=False)
    ]


def _size(value: Any) -> int:
    return len(json.dumps(value))


def _fit(value: Any, room: int, *, tail: bool = False) -> Any:
    """Return the value, or the part of its text that fits into `room` bytes of JSON."""
    size = _size(value)
    if size <= room:
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    # JSON escapes some of the characters.
    keep = max(0, room) * len(text) // (_size(text) + 1)
    while keep and _size(text[-keep:] if tail else text[:keep]) > room:
        keep = keep * 3 // 4
    if keep < 1:
        return "…"
    return f"…{text[-keep:]}" if tail else f"{text[:keep]}…"

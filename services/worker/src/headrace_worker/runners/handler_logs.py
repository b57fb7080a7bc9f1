"""The log lines of handlers, from `logging` and structlog.

Each line of a handler contains its job id, attempt, type and correlation id. Its size and rate are
limited, so a handler cannot flood the log of the worker.
"""

from __future__ import annotations

import json
import logging
import reprlib
import sys
from collections.abc import Mapping
from typing import Any, Final

import structlog

from headrace_core.domain.text import clean_line, clean_text
from headrace_worker.api.failure import is_library, stack_trace
from headrace_worker.runners.ownership import owning_attempt

# Modules whose frames are part of a logger call.
_LOGGING: Final = ("structlog.", "logging", __name__)
_OWN: Final = ("headrace_worker.", "headrace_core.", "headrace_health.")

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

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother, _repr.maxlong = _MAX_DEPTH, 200, _MAX_VALUE, 100


class HandlerLines:
    """Filter and extend the lines that handlers log. Implements `logs.ForeignLines`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record.

        Libraries may log payloads below WARNING, so below that level only the handler's own records
        pass.
        """
        attempt = owning_attempt()
        if record.levelno < logging.WARNING and (
            attempt is None
            or (is_library(record.pathname) and record.name.partition(".")[0] != attempt.package)
        ):
            return False
        return attempt is None or attempt.allow()

    def __call__(
        self, _: Any, __: str, event: structlog.types.EventDict, /
    ) -> structlog.types.EventDict:
        """Add the fields of the attempt to a line, or drop the line."""
        attempt = owning_attempt()
        if attempt is None:
            return event
        # `filter` has already checked records from `logging`.
        if "_record" not in event:
            if _is_line_of_the_worker():
                return event
            if not attempt.allow():
                raise structlog.DropEvent
        try:
            line = _bounded(event)
        except BaseException as error:  # noqa: BLE001 - a handler's class may raise anything
            line = {"event": "log_line_failed", "error_type": type(error).__name__}
        return attempt.with_facts(line)


def _is_line_of_the_worker() -> bool:
    """Return whether the worker's own code logs the line, possibly in a call from a handler."""
    frame = sys._getframe(2)  # noqa: SLF001 - required to find the caller
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(_LOGGING):
            return name.startswith(_OWN)
        frame = frame.f_back  # type: ignore[assignment]
    return True


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

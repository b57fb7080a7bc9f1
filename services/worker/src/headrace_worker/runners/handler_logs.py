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
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final

import msgspec
import structlog

from headrace_core.domain.job_log import LogLevel, LogLine
from headrace_core.domain.text import clean_line, clean_text
from headrace_core.runtime.logs import level_number
from headrace_worker.api.failure import stack_trace
from headrace_worker.runners.job_log import LogSettings
from headrace_worker.runners.ownership import owning_attempt

# Modules whose frames are part of a logger call.
_LOGGING: Final = ("structlog.", "logging", __name__)
_OWN: Final = ("headrace_worker.", "headrace_core.", "headrace_health.")

# The levels of structlog's methods.
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}

# Maximum size of a line in bytes. A handler process shares a pipe with its worker, and lines of
# this size are written atomically. pipe(7): PIPE_BUF is 4,096.
_MAX_LINE: Final = 3500
_MIN_ROOM: Final = 50
_MAX_FIELDS: Final = 32
_MAX_NAME: Final = 64
_MAX_LOGGER: Final = 200
_MAX_MESSAGE: Final = 1500
_MAX_VALUE: Final = 500
_MAX_ITEMS: Final = 20
_MAX_DEPTH: Final = 3

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother, _repr.maxlong = _MAX_DEPTH, 200, _MAX_VALUE, 100


class HandlerLines:
    """Filter and extend the lines that handlers log, and add them to the logs of their jobs.

    Implements `logs.ForeignLines`.

    Args:
        level: the lowest level of the worker's log.
        stored_level: the lowest level of the logs of jobs.
        store_stack_traces: True if the logs of jobs contain stack traces.
    """

    def __init__(
        self,
        *,
        level: int = logging.INFO,
        stored_level: int = logging.INFO,
        store_stack_traces: bool = True,
    ) -> None:
        self._level = level
        self.lowest_level = min(level, stored_level)
        self._store_stack_traces = store_stack_traces

    @classmethod
    def of(cls, settings: LogSettings) -> HandlerLines:
        """Return the filter of a worker with these settings."""
        return cls(
            level=level_number(settings.log_level),
            stored_level=level_number(settings.job_log_level),
            store_stack_traces=settings.store_stack_traces,
        )

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record.

        Libraries may log payloads below WARNING, so below that level only the handler's own records
        pass.
        """
        attempt = owning_attempt()
        own = attempt is not None and attempt.is_own_code(record.pathname, record.name)
        if record.levelno < logging.WARNING and not own:
            return False
        if attempt is not None and own and attempt.stores(record.levelno):
            attempt.store(self._record_line(record))
        return record.levelno >= self._level and (attempt is None or attempt.allow())

    def __call__(
        self, _: Any, method: str, event: structlog.types.EventDict, /
    ) -> structlog.types.EventDict:
        """Add the fields of the attempt to a line, or drop the line."""
        attempt = owning_attempt()
        # `filter` has already checked records from `logging`.
        if "_record" not in event:
            level = _LEVELS.get(method, logging.INFO)
            caller = None if attempt is None else _calling_frame()
            if attempt is not None and caller is not None:
                module = str(caller.f_globals.get("__name__", ""))
                if attempt.is_own_code(caller.f_code.co_filename, module) and attempt.stores(level):
                    attempt.store(self._event_line(event, level, module))
            if level < self._level:
                raise structlog.DropEvent
            if caller is None:
                # The line of the worker, possibly in a call from a handler.
                return event
            if attempt is not None and not attempt.allow():
                raise structlog.DropEvent
        if attempt is None:
            return event
        return attempt.with_facts(_bounded_or_failed(event))

    def _record_line(self, record: logging.LogRecord) -> LogLine:
        try:
            event = {"event": record.getMessage(), "exc_info": record.exc_info}
        except BaseException as error:  # noqa: BLE001 - a handler's class may raise anything
            event = _failed_line(error)
        time = datetime.fromtimestamp(record.created, UTC)
        return self._line(_bounded_or_failed(event), time, record.levelno, record.name)

    def _event_line(self, event: structlog.types.EventDict, level: int, module: str) -> LogLine:
        return self._line(_bounded_or_failed(event), datetime.now(UTC), level, module)

    def _line(self, line: dict[str, Any], time: datetime, level: int, logger: str) -> LogLine:
        message = line.pop("event", "")
        if not self._store_stack_traces:
            line.pop("stack_trace", None)
        return LogLine(
            time=time,
            level=LogLevel.of(level),
            logger=clean_line(logger, _MAX_LOGGER),
            message=message if isinstance(message, str) else _to_json(message),
            fields=_to_json(line) if line else "",
        )


def _to_json(value: Any) -> str:
    # Unlike `json`, msgspec writes NaN as null.
    return msgspec.json.encode(value).decode()


def _calling_frame() -> FrameType | None:
    """Return the frame that logs a structlog line; None if the worker's own code logs it."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - required to find the caller
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(_LOGGING):
            return None if name.startswith(_OWN) else frame
        frame = frame.f_back
    return None


def _bounded_or_failed(event: structlog.types.EventDict) -> dict[str, Any]:
    try:
        return _bounded(event)
    except BaseException as error:  # noqa: BLE001 - a handler's class may raise anything
        return _failed_line(error)


def _failed_line(error: BaseException) -> dict[str, Any]:
    return {"event": "log_line_failed", "error_type": type(error).__name__}


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

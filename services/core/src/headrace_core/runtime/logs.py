"""Logs: one event per line, with a stable name, as JSON or for a console.

Logs never contain payloads or secrets.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TextIO, cast

import structlog


class LogSettings(Protocol):
    """The logging part of `Settings`, for processes that read no settings."""

    @property
    def log_level(self) -> str:
        """The lowest level that is logged."""

    @property
    def log_format(self) -> str:
        """The format: `json` or `console`."""


class ForeignLines(Protocol):
    """Filters the log lines of handlers.

    `filter` accepts or rejects records of the standard library's logging. `__call__` is a structlog
    processor; it receives these records and structlog's own lines.
    """

    @property
    def lowest_level(self) -> int:
        """The lowest level that the filter wants to see. It drops lines below the log's level."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""

    def __call__(
        self, logger: Any, method: str, event: structlog.types.EventDict, /
    ) -> structlog.types.EventDict:
        """Return the line to log.

        Raises:
            structlog.DropEvent: the line is dropped.
        """


def configure(
    settings: LogSettings, *, service: str, foreign: ForeignLines | None = None
) -> Callable[[], None]:
    """Configure structlog and the standard library's logging to write to stderr.

    Args:
        settings: the level and the format.
        service: the name of the service, in every line.
        foreign: filters the lines of handlers. None if the process runs no handlers. Libraries
            then log only warnings.

    Returns:
        A function that restores this configuration if other code has changed it.
    """
    level = level_number(settings.log_level)
    lowest = level if foreign is None else foreign.lowest_level
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        *([] if foreign is None else [foreign]),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_service(service),
    ]
    renderer: list[structlog.types.Processor] = (
        [
            structlog.processors.ExceptionRenderer(_exception_fields),
            structlog.processors.JSONRenderer(),
        ]
        if settings.log_format == "json"
        else [
            _show_stack_trace,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_write_exception
            ),
        ]
    )
    sink = _Sink(sys.stderr)
    handler = _Handler(sink)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers.clear()
    if foreign is not None:
        handler.addFilter(foreign.filter)
        # arq logs each job at INFO.
        logging.getLogger("arq").setLevel(logging.WARNING)

    def apply() -> None:
        structlog.configure(
            processors=[*shared, *renderer],
            wrapper_class=structlog.make_filtering_bound_logger(lowest),
            logger_factory=structlog.WriteLoggerFactory(cast(TextIO, sink)),
            cache_logger_on_first_use=True,
        )
        # A console handler would repeat each line. Other handlers, such as error trackers, stay.
        others = [other for other in root.handlers if type(other) is not logging.StreamHandler]
        root.handlers[:] = [handler, *(other for other in others if other is not handler)]
        # Libraries report problems as warnings. Their lines about each call can contain payloads.
        root.setLevel(lowest if foreign is not None else max(level, logging.WARNING))

    apply()
    return apply


def level_number(name: str) -> int:
    """Return the number of a level, such as `info`."""
    return logging.getLevelNamesMapping()[name.upper()]


class _Sink:
    """The destination of log lines. A line that cannot be written is dropped without an error."""

    def __init__(self, target: TextIO) -> None:
        self._target = target

    def write(self, line: str) -> None:
        try:
            self._target.write(line)
        except ValueError:
            # A handler closed `sys.stderr`; the descriptor is still open.
            with suppress(OSError):
                os.write(2, line.encode(errors="replace"))
        except OSError:
            pass

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._target.flush()


class _Handler(logging.StreamHandler[Any]):
    """A logging handler that reports failures without the message and its arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except (RecursionError, SystemExit):
            # An object from a job handler raised the error while it was being formatted.
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        structlog.get_logger().warning(
            "log_line_failed", logger=record.name, place=f"{record.pathname}:{record.lineno}"
        )


def _show_stack_trace(
    _: structlog.types.WrappedLogger, __: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Move a stack trace below its line, for a console."""
    if trace := event.pop("stack_trace", None):
        event["stack"] = trace
    return event


def correlation_id() -> str | None:
    """Return the x-request-id of the current call; None outside a call."""
    bound: str | None = structlog.contextvars.get_contextvars().get("correlation_id")
    return bound


# Logs omit local variables, which can contain payloads. They also omit all but the first line of a
# database error, because the other lines quote rows and statement parameters.
_frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=30)
_MAX_MESSAGE = 500


def _exception_fields(exc_info: structlog.typing.ExcInfo) -> list[dict[str, Any]]:
    """Format an exception and its causes for a line of JSON."""
    return _shorten(_frames(exc_info))


def _shorten(stacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for stack in stacks:
        stack["exc_value"] = stack["exc_value"].partition("\n")[0][:_MAX_MESSAGE]
        stack["exc_notes"] = []
        # The exceptions of a group.
        for inner in stack["exceptions"]:
            _shorten(inner)
    return stacks


def _write_exception(target: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """Format an exception and its causes for a console."""
    for stack in reversed(_exception_fields(exc_info)):
        target.write("\n")
        target.writelines(
            f"  {frame['filename']}:{frame['lineno']} in {frame['name']}\n"
            for frame in stack["frames"]
        )
        target.write(f"{stack['exc_type']}: {stack['exc_value']}")


def _add_service(service: str) -> structlog.types.Processor:
    def add(
        _: structlog.types.WrappedLogger, __: str, event: structlog.types.EventDict
    ) -> structlog.types.EventDict:
        event["service"] = service
        return event

    return add

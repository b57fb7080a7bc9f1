"""Logs: one event a line, with a stable name, as JSON or for a console.

Payloads and secrets never stand in one.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Protocol, TextIO

import structlog


class LogSettings(Protocol):
    """How to log: what `Settings` has, for a process that reads no settings."""

    @property
    def log_level(self) -> str:
        """From which level on."""

    @property
    def log_format(self) -> str:
        """`json` or `console`."""


def configure(settings: LogSettings, *, service: str) -> None:
    """Sets up structlog, and the standard library's logging to go the same way, to stderr.

    Args:
        settings: the level and the format.
        service: stands in every line.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_service(service),
    ]
    renderer: list[structlog.types.Processor] = (
        [structlog.processors.ExceptionRenderer(_exception), structlog.processors.JSONRenderer()]
        if settings.log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_write_exception
            )
        ]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak up when something is wrong; what they say of each call may hold payloads.
    root.setLevel(max(level, logging.WARNING))


def correlation_id() -> str | None:
    """Return the x-request-id of the call that is being served; None outside a call."""
    bound: str | None = structlog.contextvars.get_contextvars().get("correlation_id")
    return bound


# Variables hold payloads, and so do the lines behind the first of a database error (DETAIL, the
# statement's parameters): neither is shown.
_frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=30)
_MAX_TEXT = 500


def _exception(exc_info: structlog.typing.ExcInfo) -> list[dict[str, Any]]:
    """An exception and its causes, for a line of JSON."""
    return _shorten(_frames(exc_info))


def _shorten(stacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for stack in stacks:
        stack["exc_value"] = stack["exc_value"].partition("\n")[0][:_MAX_TEXT]
        stack["exc_notes"] = []
        # Those of a group.
        for inner in stack["exceptions"]:
            _shorten(inner)
    return stacks


def _write_exception(target: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """An exception and its causes, for a console."""
    for stack in reversed(_exception(exc_info)):
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

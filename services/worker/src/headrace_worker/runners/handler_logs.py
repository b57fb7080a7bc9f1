"""The log lines of handlers: `logging` and structlog calls, with the job that they belong to.

A line of a handler has its job, attempt, type and correlation id.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import structlog

from headrace_worker.api.failure import is_library
from headrace_worker.runners.ownership import current_log

# Modules that take part in a call to a logger.
_LOGGING: Final = ("structlog.", "logging", __name__)
_OWN: Final = ("headrace_worker.", "headrace_core.", "headrace_health.")


class HandlerLines:
    """Filters and extends the lines that are logged while a handler runs (`logs.ForeignLines`)."""

    def filter(self, record: logging.LogRecord) -> bool:
        """As ForeignLines.filter.

        A library may log payloads below WARNING, so only the handler's own code passes there.
        """
        attempt = current_log()
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
        attempt = current_log()
        if attempt is None:
            return event
        # The filter has checked the records of the standard library.
        if "_record" not in event:
            if _logs_for_the_worker():
                return event
            if not attempt.take():
                raise structlog.DropEvent
        return attempt.line(event)


def _logs_for_the_worker() -> bool:
    """Whether the line is of the worker's own code, called by a handler or calling one."""
    frame = sys._getframe(2)  # noqa: SLF001 - the only way to the caller
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(_LOGGING):
            return name.startswith(_OWN)
        frame = frame.f_back  # type: ignore[assignment]
    return True

"""The log lines of handlers, from `logging` and structlog.

Each line of a handler contains its job id, attempt, type and correlation id.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import structlog

from headrace_worker.api.failure import is_library
from headrace_worker.runners.ownership import current_log

# Modules whose frames are part of a logger call.
_LOGGING: Final = ("structlog.", "logging", __name__)
_OWN: Final = ("headrace_worker.", "headrace_core.", "headrace_health.")


class HandlerLines:
    """Filter and extend the lines that handlers log. Implements `logs.ForeignLines`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record.

        Libraries may log payloads below WARNING, so below that level only the handler's own records
        pass.
        """
        attempt = current_log()
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
        attempt = current_log()
        if attempt is None:
            return event
        # `filter` has already checked records from `logging`.
        if "_record" not in event:
            if _is_line_of_the_worker():
                return event
            if not attempt.allow():
                raise structlog.DropEvent
        return attempt.line(event)


def _is_line_of_the_worker() -> bool:
    """Return whether the worker's own code logs the line, possibly in a call from a handler."""
    frame = sys._getframe(2)  # noqa: SLF001 - required to find the caller
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(_LOGGING):
            return name.startswith(_OWN)
        frame = frame.f_back  # type: ignore[assignment]
    return True

"""The log of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class LogLevel(StrEnum):
    """The level of a log line."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"
    # Unknown to this version of the client.
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLogLine:
    """A line that a handler logged.

    `position` increases from line to line within a job, with gaps; a later call can continue after
    it. `line` is the number of the line within its `attempt`. `log_time` is by the worker's clock.
    `fields` has the fields of a structlog line, and the `stack_trace` of an exception. If an
    attempt reached a limit of the worker, its last line has the number of `dropped_lines`.
    """

    position: int
    attempt: int
    line: int
    log_time: datetime | None
    level: LogLevel
    logger: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    dropped_lines: int = 0

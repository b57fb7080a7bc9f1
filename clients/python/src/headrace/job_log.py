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

    `position` increases within a job, with gaps. Pass it to a later call to resume after this line.
    `line` is the number of the line within its `attempt`. `log_time` is from the worker's clock.
    `fields` has the fields of a structlog line, and the `stack_trace` of an exception. If an
    attempt exceeds a limit of the worker's log, `dropped_lines` of its last line is the number of
    lines that were dropped.
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

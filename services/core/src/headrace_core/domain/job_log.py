"""The log of a job: the lines that its handler logs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from typing import Final, NamedTuple

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.job import JsonText

# The maximum value of HEADRACE_JOB_LOG_LINES. With the lines that report dropped lines, the number
# of a line stays below LINES_PER_ATTEMPT.
MAX_JOB_LOG_LINES: Final = 100_000
# The distance between the positions of the first lines of two attempts.
LINES_PER_ATTEMPT: Final = 1_000_000


class LogLevel(IntEnum):
    """The level of a line, with the value of the standard library's logging."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50

    @classmethod
    def of(cls, level: int) -> LogLevel:
        """Return the highest level up to a level of logging, which may be a custom one."""
        return max((known for known in cls if known <= level), default=cls.DEBUG)


class LogLine(NamedTuple):
    """A line that a handler logged.

    Attributes:
        time: the time of the call, by the worker's clock.
        level: the level.
        logger: the name of the logger; of a structlog logger, the module of the call.
        message: the message, cleaned and truncated.
        fields: a JSON object of structlog's fields and the stack trace; empty for none.
        dropped: the number of lines that were dropped, in a line that reports them; otherwise 0.
    """

    time: datetime
    level: LogLevel
    logger: str
    message: str
    fields: JsonText = ""
    dropped: int = 0


class LogPosition(NamedTuple):
    """The place of a line in the log of its job. Later lines have greater positions."""

    attempt: int
    line: int

    def __int__(self) -> int:
        """Return the form of the API."""
        return self.attempt * LINES_PER_ATTEMPT + self.line

    @classmethod
    def parse(cls, number: int) -> LogPosition:
        """Return the position that has this form in the API."""
        return cls(*divmod(number, LINES_PER_ATTEMPT))


LOG_START: Final = LogPosition(0, 0)


class StoredLine(NamedTuple):
    """A line and its place in the log of its job."""

    position: LogPosition
    line: LogLine


class LogChunk(NamedTuple):
    """Consecutive lines of an attempt, which are stored in one row.

    Attributes:
        key: the attempt.
        last: the number of the last line within the attempt, from 1.
        lines: the lines.
    """

    key: AttemptKey
    last: int
    lines: Sequence[LogLine]

"""The log of an attempt, which is stored with its job: where its lines go, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.job_log import LogLevel, LogLine
from headrace_core.runtime.logs import level_number

# The size of the time and the level of a line, in bytes.
_OVERHEAD: Final = 40


class LogSettings(Protocol):
    """The settings of the worker's log and of the logs of jobs; see `Settings`."""

    @property
    def log_level(self) -> str:
        """The lowest level of the worker's log."""

    @property
    def log_format(self) -> str:
        """The format of the worker's log."""

    @property
    def job_log_level(self) -> str:
        """The lowest level of the logs of jobs."""

    @property
    def job_log_lines(self) -> int:
        """The maximum number of stored lines of an attempt."""

    @property
    def job_log_bytes(self) -> int:
        """The maximum size of the stored lines of an attempt, in bytes."""

    @property
    def store_stack_traces(self) -> bool:
        """Whether stack traces are stored."""


class LogLimits(NamedTuple):
    """The limits of the stored log.

    Attributes:
        level: the lowest level of a line.
        lines: the maximum number of lines of an attempt; 0 to store no lines.
        size: the maximum size of the lines of an attempt, in bytes.
    """

    level: LogLevel
    lines: int
    size: int

    @classmethod
    def of(cls, settings: LogSettings) -> LogLimits:
        """Return the limits of these settings."""
        return cls(
            level=LogLevel(level_number(settings.job_log_level)),
            lines=settings.job_log_lines,
            size=settings.job_log_bytes,
        )

    def accepts(self, level: int) -> bool:
        """Return whether lines with a level are stored."""
        return self.lines > 0 and level >= self.level


class LogSink(Protocol):
    """Receives the lines that handlers log."""

    @property
    def limits(self) -> LogLimits:
        """The limits of each attempt."""

    def add(self, key: AttemptKey, line: LogLine, /) -> None:
        """Add a line of an attempt, without waiting. Any thread may call this."""


class AttemptLogs(LogSink, Protocol):
    """The logs of all attempts of a worker."""

    def note_dropped(self, key: AttemptKey, lines: int, /) -> None:
        """Count lines of an attempt that were dropped elsewhere."""

    async def flush(self, key: AttemptKey, /) -> None:
        """Try once to write the lines of an attempt."""


@dataclass(slots=True)
class LogBudget:
    """The size of one attempt's log.

    Attributes:
        lines: the number of lines.
        size: their size in bytes.
        dropped: the number of lines over the limits.
    """

    lines: int = 0
    size: int = 0
    dropped: int = 0

    def admit(self, line: LogLine, limits: LogLimits) -> bool:
        """Count a line; return whether it is within the limits."""
        size = self.size + measure(line)
        # After the first dropped line all later ones are dropped, so the log has a single gap.
        if self.dropped or self.lines >= limits.lines or size > limits.size:
            self.dropped += 1
            return False
        self.lines += 1
        self.size = size
        return True


def measure(line: LogLine) -> int:
    """Return the size of a line in bytes."""
    return _OVERHEAD + sum(
        len(text) if text.isascii() else len(text.encode())
        for text in (line.logger, line.message, line.fields)
    )

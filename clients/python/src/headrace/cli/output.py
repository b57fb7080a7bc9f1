"""Output: data to stdout, as text or JSON documents; messages to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NoReturn, TypeAlias

from rich.console import Console, RenderableType
from rich.text import Text

from headrace import Job, JobError

Format: TypeAlias = Literal["text", "json", "jsonl"]

# The width without a terminal, so that lines are neither folded nor truncated.
_UNLIMITED_WIDTH = 10_000


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        # By default, rich exits with code 1. `run` in app.py handles the error.
        raise BrokenPipeError


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return _Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if stream.isatty() else _UNLIMITED_WIDTH,
    )


class Output:
    """Writes values in one format.

    Attributes:
        format: text, json or jsonl.
        console: stdout.
        errors: stderr.
    """

    def __init__(self, *, format: Format) -> None:  # noqa: A002
        self.format = format
        self.console = _console(stderr=False)
        self.errors = _console(stderr=True)

    @property
    def live(self) -> bool:
        """True if the output is text on a terminal, which can be redrawn."""
        return self.format == "text" and self.console.is_terminal

    def value(self, value: Any, text: RenderableType) -> None:
        """Write one value as JSON, or `text`."""
        if self.format == "text":
            self.console.print(text)
        else:
            self.line(json_text(value) if self.format == "json" else json_line(value))

    def values(self, values: Sequence[Any], text: RenderableType) -> None:
        """Write values as JSON, or `text`."""
        if self.format == "jsonl":
            for value in values:
                self.line(json_line(value))
        else:
            self.value(values, text)

    def line(self, text: str) -> None:
        """Write a line and flush it."""
        print(text, flush=True)  # noqa: T201

    def message(self, text: str) -> None:
        """Write a message to stderr."""
        self.errors.print(Text(text))


# Fields that only the full view of a job has.
_FULL_VIEW_FIELDS: Final = {"payload", "result"}


def document(value: Any) -> Any:
    """Return a value as JSON data: times in RFC 3339, durations in seconds, None as null."""
    if is_dataclass(value):
        found = {field.name: document(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, JobError) and not value.stack_trace:
            # Events and the basic view have no stack trace.
            del found["stack_trace"]
        return found
    if isinstance(value, Mapping):
        return {str(key): document(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [document(entry) for entry in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value


def summary(job: Job) -> dict[str, Any]:
    """Return a job as JSON data, without the fields that only the full view has."""
    return {name: value for name, value in document(job).items() if name not in _FULL_VIEW_FIELDS}


def json_line(value: Any) -> str:
    """Return a value as one line of JSON."""
    return json.dumps(document(value), ensure_ascii=False)


def json_text(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(document(value), ensure_ascii=False, indent=2)

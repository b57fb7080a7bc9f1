"""Data goes to stdout in the format that was asked for, messages go to stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, TypeAlias

from rich.console import Console, RenderableType
from rich.text import Text

from headrace.cli.documents import json_line, json_text

Format: TypeAlias = Literal["text", "json", "jsonl"]

# Wide enough that nothing is folded or cut when no terminal sets a width.
_UNBOUNDED = 10_000


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        # rich would end the program with code 1; see `run` in app.py.
        raise BrokenPipeError


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return _Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if stream.isatty() else _UNBOUNDED,
    )


class Output:
    """Writes values in a format.

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
        """Whether a person watches a terminal that can be redrawn."""
        return self.format == "text" and self.console.is_terminal

    def value(self, value: Any, text: RenderableType) -> None:
        """Writes one value, or `text` for people."""
        if self.format == "text":
            self.console.print(text)
        else:
            self.line(json_text(value) if self.format == "json" else json_line(value))

    def values(self, values: Sequence[Any], text: RenderableType) -> None:
        """Writes some values, or `text` for people."""
        if self.format == "jsonl":
            for value in values:
                self.line(json_line(value))
        else:
            self.value(values, text)

    def line(self, text: str) -> None:
        """Writes a line as it is, at once."""
        print(text, flush=True)  # noqa: T201

    def message(self, text: str) -> None:
        """Tells a person something."""
        self.errors.print(Text(text))

"""Events, written as they come."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.live import Live

from headrace import JobEvent, JobEventType, JobState
from headrace.cli.board import Board
from headrace.cli.documents import document
from headrace.cli.output import Output
from headrace.cli.text import event_text


class EventStream(AbstractContextManager["EventStream"]):
    """Writes events: for people a line each, with a live board at a terminal; as JSON lines; or as
    one JSON array, which is complete also when the watch is interrupted.
    """

    def __init__(self, output: Output) -> None:
        self.board = Board()
        self._output = output
        self._count = 0
        self._live = (
            Live(self.board, console=output.console, refresh_per_second=10, transient=True)
            if output.live
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        if self._output.format == "json":
            self._output.line("[")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
        if self._output.format == "json" and kind is not BrokenPipeError:
            self._output.line("]")

    def show(self, event: JobEvent, *, cursor: str | None = None) -> None:
        """Writes an event; with JSON also the cursor that stands behind it."""
        self.board.take(event)
        self._count += 1
        if self._output.format == "text":
            # The board shows progress better.
            if not (self._live and event.type is JobEventType.PROGRESSED):
                self._output.console.print(event_text(event))
            return
        entry = document(event)
        if cursor is not None:
            entry["cursor"] = cursor
        text = json.dumps(entry, ensure_ascii=False)
        if self._output.format == "json":
            text = f"  {text}" if self._count == 1 else f", {text}"
        self._output.line(text)

    @property
    def all_succeeded(self) -> bool:
        """Whether no job that was seen has failed or was cancelled."""
        return not {JobState.FAILED, JobState.CANCELLED} & self.board.counts.keys()

    def summary(self) -> str:
        """How many jobs are in which state."""
        counts = self.board.counts
        jobs = "1 job" if counts.total() == 1 else f"{counts.total()} jobs"
        states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        return f"{jobs}: {states}" if states else jobs

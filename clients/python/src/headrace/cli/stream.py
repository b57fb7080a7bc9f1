"""Shows live events as lines, as JSON, and on a live board in a terminal."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headrace import JobEvent, JobEventType, JobState, Progress
from headrace.cli.output import Output, document
from headrace.cli.text import event_text, plain, progress_text, short_id, state_text

if TYPE_CHECKING:
    from headrace import Client

# The maximum number of streams for one command. A filter needs only one stream for any number of
# jobs.
MAX_WATCHED_JOBS: Final = 500

# Maximum number of progress bars; more would push the events off the screen.
_MAX_BARS: Final = 8
# Minimum terminal width for lines with full ids and long bars.
_FULL_LINE_WIDTH: Final = 110


async def follow(client: Client, job_ids: Sequence[str], stream: EventWriter) -> None:
    """Show the past and future events of each job, until all jobs have ended.

    Raises:
        CallError: a job does not exist, or no gateway was reachable in time.
    """

    async def follow_job(job_id: str) -> None:
        async for event in client.watch_job(job_id):
            stream.show(event)

    tasks = [asyncio.create_task(follow_job(job_id)) for job_id in dict.fromkeys(job_ids)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class EventWriter(AbstractContextManager["EventWriter"]):
    """Writes events.

    Text output has one line per event, and a live board in a terminal. JSON output is one document
    per line, or one array, which is closed even after an interrupt.
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
        """Write an event; JSON output also contains the cursor after the event."""
        self.board.add(event)
        self._count += 1
        if self._output.format == "text":
            # The live board already shows progress.
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
        """True if no job failed or was cancelled."""
        return not {JobState.FAILED, JobState.CANCELLED} & self.board.counts.keys()

    def summary(self) -> str:
        """Return the number of jobs in each state."""
        counts = self.board.counts
        jobs = "1 job" if counts.total() == 1 else f"{counts.total()} jobs"
        states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        return f"{jobs}: {states}" if states else jobs


class Board:
    """The live part of the output: a progress bar for each running job, and counts by state."""

    def __init__(self) -> None:
        self._states: dict[str, JobState] = {}
        self._running: dict[str, tuple[str, Progress]] = {}

    def add(self, event: JobEvent) -> None:
        """Update the board with an event."""
        self._states[event.job_id] = event.state
        if event.state is not JobState.RUNNING:
            self._running.pop(event.job_id, None)
        elif event.progress:
            self._running[event.job_id] = (event.job_type, event.progress)
        else:
            self._running.setdefault(event.job_id, (event.job_type, Progress(fraction=0.0)))

    @property
    def counts(self) -> Counter[JobState]:
        """The number of jobs in each state."""
        return Counter(self._states.values())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bars = Table.grid(padding=(0, 2))
        running = list(self._running.items())
        narrow = options.max_width < _FULL_LINE_WIDTH
        for job_id, (job_type, progress) in running[:_MAX_BARS]:
            bars.add_row(
                short_id(job_id) if narrow else job_id,
                plain(job_type),
                ProgressBar(total=1.0, completed=progress.fraction, width=10 if narrow else 24),
                Text(progress_text(progress), overflow="ellipsis", no_wrap=True),
            )
        if running:
            yield bars
        if len(running) > _MAX_BARS:
            yield Text(f"and {len(running) - _MAX_BARS} more running", style="dim")
        yield Text("  ").join(
            Text.assemble(state_text(state), f" {count}")
            for state, count in sorted(self.counts.items())
        )

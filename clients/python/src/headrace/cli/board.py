"""The live part of a watch at a terminal: counts by state, and a bar for each running job."""

from __future__ import annotations

from collections import Counter
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headrace import JobEvent, JobState, Progress
from headrace.cli.text import plain, progress_text, short_id, state_text

# Bars that are shown at a time; more would push the transitions out of sight.
_BARS: Final = 8
# Columns from which on whole ids and long bars leave room for what a handler says.
_WIDE: Final = 110


class Board:
    """What is known of the jobs of a watch."""

    def __init__(self) -> None:
        self._states: dict[str, JobState] = {}
        self._running: dict[str, tuple[str, Progress]] = {}

    def take(self, event: JobEvent) -> None:
        """Takes in an event."""
        self._states[event.job_id] = event.state
        if event.state is not JobState.RUNNING:
            self._running.pop(event.job_id, None)
        elif event.progress:
            self._running[event.job_id] = (event.job_type, event.progress)
        else:
            self._running.setdefault(event.job_id, (event.job_type, Progress(fraction=0.0)))

    @property
    def counts(self) -> Counter[JobState]:
        """How many jobs are in each state."""
        return Counter(self._states.values())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bars = Table.grid(padding=(0, 2))
        running = list(self._running.items())
        narrow = options.max_width < _WIDE
        for job_id, (job_type, progress) in running[:_BARS]:
            bars.add_row(
                short_id(job_id) if narrow else job_id,
                plain(job_type),
                ProgressBar(total=1.0, completed=progress.fraction, width=10 if narrow else 24),
                Text(progress_text(progress), overflow="ellipsis", no_wrap=True),
            )
        if running:
            yield bars
        if len(running) > _BARS:
            yield Text(f"and {len(running) - _BARS} more that run", style="dim")
        yield Text("  ").join(
            Text.assemble(state_text(state), f" {count}")
            for state, count in sorted(self.counts.items())
        )

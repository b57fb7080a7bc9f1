"""The live table of transitions; without a terminal, one line per transition."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Self

from cases import Case
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headrace import JobEvent, JobEventType, JobState

_COLORS = {
    JobState.SCHEDULED: "magenta",
    JobState.QUEUED: "yellow",
    JobState.RUNNING: "cyan",
    JobState.RETRYING: "dark_orange",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "grey62",
}
_REPORT_TYPES = {JobEventType.PROGRESSED, JobEventType.OUTPUT}


class Board:
    """Shows one line for each single job, and the bulk as counts.

    Args:
        console: the terminal.
        cases: the single jobs.
        bulk_size: the number of jobs in the bulk.
    """

    def __init__(self, console: Console, cases: list[Case], *, bulk_size: int) -> None:
        self._console = console
        self._cases = cases
        self._bulk_size = bulk_size
        self._start = time.monotonic()
        self._trails: dict[str, list[JobEvent]] = {}
        self._bulk: dict[str, JobState] = {}
        self._names: dict[str, str] = {}
        self._transitions = 0
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=12, transient=False
        )
        self._shows_table = console.is_terminal

    def __enter__(self) -> Self:
        if self._shows_table:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    def add_job(self, case: Case, job_id: str) -> None:
        """Store the id of a single job. Its earlier events may have been counted as bulk."""
        self._names[job_id] = case.name
        self._bulk.pop(job_id, None)

    def show_event(self, event: JobEvent, case: Case | None) -> None:
        """Show a transition."""
        self._transitions += 1
        self._trails.setdefault(event.job_id, []).append(event)
        if case is None:
            self._bulk[event.job_id] = event.state
            return
        if not self._shows_table and event.type not in _REPORT_TYPES:
            elapsed = time.monotonic() - self._start
            self._console.print(
                f"{elapsed:7.3f} s  {case.name:24} {event.seq:3} {event.type.lower():17} "
                f"{event.state:10} {_detail(event)}",
                soft_wrap=True,
            )

    def close(self) -> None:
        """Show the final state and stop."""
        if self._live.is_started:
            self._live.stop()
        else:
            self._console.print(f"bulk of {self._bulk_size}: {_state_counts(self._bulk)}")

    def _render(self) -> RenderableType:
        table = Table(title="Headrace: live transitions", title_justify="left")
        table.add_column("job", no_wrap=True)
        table.add_column("type", no_wrap=True, style="dim")
        table.add_column("state", no_wrap=True, min_width=10)
        table.add_column("transitions", ratio=1)
        trails = {self._names[i]: t for i, t in self._trails.items() if i in self._names}
        for case in self._cases:
            trail = trails.get(case.name, [])
            state = trail[-1].state if trail else None
            table.add_row(
                case.name,
                case.spec.type,
                Text(state or "…", style=_COLORS.get(state, "dim") if state else "dim"),
                _trail(trail),
            )
        elapsed = time.monotonic() - self._start
        foot = Text.from_markup(
            f"bulk of {self._bulk_size} × square_sum: {_state_counts(self._bulk)}\n"
            f"{self._transitions} transitions pushed in {elapsed:.1f} s"
        )
        return Group(table, foot)


def _trail(trail: list[JobEvent]) -> Text:
    text = Text()
    quiet = 0
    for event in trail:
        if event.type in _REPORT_TYPES:
            quiet += 1
            continue
        if quiet:
            text.append(f"+{quiet} reports ", style="dim")
            quiet = 0
        text.append(f"{event.type.lower()} ", style=_COLORS.get(event.state, ""))
    if quiet:
        newest = trail[-1].progress
        done = f" {newest.fraction:.0%}" if newest is not None else ""
        text.append(f"+{quiet} reports{done} ", style="dim")
    if trail and (detail := _detail(trail[-1])):
        text.append(detail, style="dim")
    return text


def _detail(event: JobEvent) -> str:
    if event.error is not None:
        return f"{event.error.type}: {event.error.message}"
    return ""


def _state_counts(states: dict[str, JobState]) -> str:
    counts = Counter(states.values())
    shown = [
        f"[{color}]{counts[state]} {state.lower()}[/]"
        for state, color in _COLORS.items()
        if counts[state]
    ]
    return ", ".join(shown) or "waiting"

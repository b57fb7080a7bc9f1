"""Values as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from headrace import HandlerInfo, Job, JobError, JobEvent, JobState, Progress, Stats
from headrace.cli.documents import json_line, json_text

_STYLES: Final = {
    JobState.SCHEDULED: "blue",
    JobState.QUEUED: "cyan",
    JobState.RUNNING: "yellow",
    JobState.RETRYING: "magenta",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "bold red",
    JobState.CANCELLED: "red",
}
# Between two columns of the list of jobs, and how many of them there are at least.
_GAP: Final = "  "
_FEWEST_COLUMNS: Final = 2
# The longest name of a type or a queue in a list that is too wide otherwise.
_LONGEST_NAME: Final = 20
# Columns that the name of a queue or a type has at least, beside its numbers.
_NAME_WIDTH: Final = 8
# The end of an id, which tells it from others: a UUIDv7 begins with the time.
_SHORT_ID: Final = 12
# What a line of the event list says of a piece of output at most, in characters.
_OUTPUT_LENGTH: Final = 500


def plain(text: str) -> str:
    """`text` without what a terminal would obey."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def state_text(state: JobState) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def time_text(time: datetime | None) -> str:
    """A time in this machine's zone, to the second."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}" if time else ""


def span_text(span: timedelta) -> str:
    """A span of time in its two largest units: `350ms`, `4.25s`, `3m 20s`, `2d 4h`."""
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {seconds}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}h"


def progress_text(progress: Progress) -> str:
    counters = " ".join(f"{name}={value}" for name, value in progress.counters.items())
    return " ".join(
        part for part in (f"{progress.fraction:.0%}", plain(progress.message), counters) if part
    )


def error_text(error: JobError) -> str:
    return plain(f"{error.type}: {error.message}" if error.type else error.message)


class JobsTable:
    """A line for each job, with a note.

    Where that is too wide, the note has a line of its own, long names are cut, and columns are left
    out from the right. An id is there to be copied: it is shortened last.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._notes = ["", *(" ".join(_note(job).split()) for job in jobs)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = self._rows(short=False)
        widths = _widths(rows)
        longest = max(map(cell_len, self._notes))
        beside = not longest or _line_width([*widths, longest]) <= options.max_width
        if _line_width(widths) > options.max_width:
            widths[2:4] = [min(width, _LONGEST_NAME) for width in widths[2:4]]
        while len(widths) > _FEWEST_COLUMNS and _line_width(widths) > options.max_width:
            widths.pop()
        if _line_width(widths) > options.max_width:
            rows = self._rows(short=True)
            widths = _widths(rows)[:_FEWEST_COLUMNS]
        for row, note in zip(rows, self._notes, strict=True):
            line = Text(_GAP).join(
                _fitted(cell, width) for cell, width in zip(row, widths, strict=False)
            )
            if beside:
                line.append(f"{_GAP}{note}")
            line.rstrip()
            if row is rows[0]:
                line.stylize("bold")
            yield line
            if note and not beside:
                yield Text(f"{_GAP}{note}", overflow="ellipsis", no_wrap=True)

    def _rows(self, *, short: bool) -> list[tuple[Text, ...]]:
        header = tuple(map(Text, ("ID", "STATE", "TYPE", "QUEUE", "SUBMITTED")))
        return [
            header,
            *(
                (
                    Text(short_id(job.id) if short else job.id),
                    state_text(job.state),
                    Text(plain(job.type)),
                    Text(plain(job.queue)),
                    Text(_short_time(job.create_time)),
                )
                for job in self._jobs
            ),
        ]


def _widths(rows: Sequence[Sequence[Text]]) -> list[int]:
    return [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]


def _line_width(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _fitted(cell: Text, width: int) -> Text:
    fitted = cell.copy()
    fitted.truncate(width, overflow="ellipsis", pad=True)
    return fitted


def job_line(job: Job) -> Text:
    asked = job.cancel_request_time is not None and not job.state.terminal
    note = " cancel requested" if asked else ""
    return Text.assemble(f"{job.id} ", state_text(job.state), note)


def short_id(job_id: str) -> str:
    """The end of an id, to recognize a job by."""
    return f"…{job_id[-_SHORT_ID:]}" if len(job_id) > _SHORT_ID else job_id


def job_view(job: Job, output: Sequence[Any]) -> RenderableType:
    """Show all of a job, and what its handler has emitted."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("id", job.id)
    grid.add_row("type", plain(job.type))
    grid.add_row("queue", plain(job.queue))
    grid.add_row("state", state_text(job.state))
    for name, value in _particulars(job, output):
        if value:
            grid.add_row(name, Text(value))
    return grid


def event_text(event: JobEvent) -> Text:
    """One line: when, which job, the event, and its particulars."""
    return _event_line(event, f"{event.job_id} {plain(event.job_type)} ", "")


def history_text(event: JobEvent) -> Text:
    """One line of the events of a single job: when, the event, the state, and its particulars."""
    return _event_line(event, f"{event.seq:>3} ", f"{event.state:<9} ")


def _event_line(event: JobEvent, subject: str, state: str) -> Text:
    time = f"{event.event_time.astimezone():%H:%M:%S.%f}"[:-3] if event.event_time else ""
    style = _STYLES.get(event.state, "")
    line = Text.assemble(
        (f"{time} ", "dim"),
        subject,
        (f"{event.type:<16} ", style),
        (state, style),
        f"attempt {event.attempt} " if event.attempt else "",
        _detail(event),
    )
    line.rstrip()
    return line


def stats_view(stats: Stats) -> RenderableType:
    """Three tables: all jobs, by queue, by type."""
    shown = [state for state in JobState if stats.states.get(state)]
    names = [state.name for state in shown]
    queues = table("QUEUE", *names, "OLDEST QUEUED")
    for queue in stats.queues:
        age = span_text(queue.age) if queue.age is not None else ""
        queues.add_row(plain(queue.queue), *_numbers(queue.states, shown), age)
    types = table("TYPE", *names)
    for job_type in stats.types:
        types.add_row(plain(job_type.type), *_numbers(job_type.states, shown))
    if not shown:
        return Text("no jobs")
    queues.add_row(Text("all", style="bold"), *_numbers(stats.states, shown), "", style="bold")
    # Where it is narrow, headers and names give way, but never a digit.
    for made in (queues, types):
        for column in made.columns:
            column.no_wrap = False
            column.min_width = max(cell_len(str(cell)) for cell in column.cells)
        made.columns[0].min_width = _NAME_WIDTH
    return Group(queues, Text(), types)


def handlers_table(handlers: Iterable[HandlerInfo]) -> Table:
    rows = table("TYPE", "QUEUE", "WORKERS", "TIMEOUT", "DESCRIPTION")
    rows.columns[-1].no_wrap = False
    for handler in handlers:
        rows.add_row(
            plain(handler.type),
            plain(handler.queue),
            str(handler.live_workers),
            span_text(handler.timeout) if handler.timeout else "",
            plain(handler.description),
        )
    return rows


def table(*columns: str) -> Table:
    """An empty table without lines, whose columns give way on the right."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, no_wrap=True, overflow="ellipsis")
    return made


def _short_time(time: datetime | None) -> str:
    """The time of day when it was today, else the day as well."""
    if time is None:
        return ""
    local = time.astimezone()
    today = local.date() == datetime.now(local.tzinfo).date()
    return f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M}"


def _numbers(states: Mapping[JobState, int], shown: Sequence[JobState]) -> list[str]:
    return [str(states.get(state, 0) or "-") for state in shown]


def _note(job: Job) -> str:
    if job.error and job.state is not JobState.SUCCEEDED:
        return error_text(job.error)
    if job.progress and job.state is JobState.RUNNING:
        return progress_text(job.progress)
    if job.state in {JobState.SCHEDULED, JobState.RETRYING} and job.schedule_time:
        return f"due {time_text(job.schedule_time)}"
    return ""


def _particulars(job: Job, output: Sequence[Any]) -> Iterable[tuple[str, str]]:
    yield "priority", str(job.priority) if job.priority else ""
    yield "labels", plain(" ".join(f"{key}={value}" for key, value in job.labels.items()))
    yield "attempt", f"{job.attempt} ({job.retries_used} retries used)" if job.attempt else ""
    yield "progress", progress_text(job.progress) if job.progress else ""
    yield "error", error_text(job.error) if job.error else ""
    yield "stack trace", plain(job.error.stack_trace) if job.error else ""
    yield "unreadable", plain(" ".join(job.unreadable_fields))
    yield "worker", job.worker_id
    yield "request id", plain(job.request_id)
    yield "correlation id", plain(job.correlation_id)
    yield "batch", job.batch_id
    yield "timeout", span_text(job.timeout) if job.timeout else ""
    yield "deadline", time_text(job.deadline)
    yield "submitted", time_text(job.create_time)
    yield "due", time_text(job.schedule_time)
    yield "queued", time_text(job.queue_time)
    yield "started", time_text(job.start_time)
    yield "cancel asked", time_text(job.cancel_request_time)
    yield "ended", time_text(job.end_time)
    yield "payload", _document(job.payload)
    yield "output", "\n".join(plain(json_line(piece)) for piece in output)
    yield "result", _document(job.result) if job.state is JobState.SUCCEEDED else ""


def _document(value: Any) -> str:
    return plain(json_text(value))


def _detail(event: JobEvent) -> str:
    if event.error:
        due = f", again {time_text(event.schedule_time)}" if event.schedule_time else ""
        return error_text(event.error) + due
    if event.progress:
        return progress_text(event.progress)
    if event.output is not None:
        text = plain(json_line(event.output))
        return text if len(text) <= _OUTPUT_LENGTH else f"{text[:_OUTPUT_LENGTH]}…"
    if event.schedule_time:
        return f"due {time_text(event.schedule_time)}"
    return f"worker {event.worker_id}" if event.worker_id else ""

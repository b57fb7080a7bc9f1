"""Jobs, events and subscriptions as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from headrace import (
    Job,
    JobError,
    JobEvent,
    JobLogLine,
    JobState,
    LogLevel,
    Principal,
    Progress,
    Quotas,
    Subscription,
    Tenant,
)
from headrace.cli.output import json_line, json_text

_STYLES: Final = {
    JobState.SCHEDULED: "blue",
    JobState.QUEUED: "cyan",
    JobState.RUNNING: "yellow",
    JobState.RETRYING: "magenta",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "bold red",
    JobState.CANCELLED: "red",
}
_LEVEL_STYLES: Final = {
    LogLevel.DEBUG: "dim",
    LogLevel.WARNING: "yellow",
    LogLevel.ERROR: "red",
    LogLevel.CRITICAL: "bold red",
}
# The number of characters in a short id. It is the end of the id, which is random: a UUIDv7 starts
# with the time.
_SHORT_ID_LENGTH: Final = 12
# Maximum length of the output in an event line, in characters.
_MAX_OUTPUT_LENGTH: Final = 500


def plain(text: str) -> str:
    """Return `text` with control characters escaped."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def state_text(state: JobState) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def time_text(time: datetime | None) -> str:
    """Return a time in the local time zone, in whole seconds."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}" if time else ""


def span_text(span: timedelta) -> str:
    """Return a duration in its two largest units: `350ms`, `4.25s`, `3m 20s`, `2d 4h`."""
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


def job_line(job: Job) -> Text:
    requested = job.cancel_request_time is not None and not job.state.terminal
    note = " cancel requested" if requested else ""
    return Text.assemble(f"{job.id} ", state_text(job.state), note)


def log_text(line: JobLogLine) -> Text:
    """Return a log line: its time, attempt, level, logger, message and fields."""
    fields = dict(line.fields)
    trace = fields.pop("stack_trace", "")
    time = f"{line.log_time.astimezone():%H:%M:%S.%f}"[:-3] if line.log_time else ""
    details = " ".join(f"{name}={json_line(value)}" for name, value in fields.items())
    rest = plain(f"{line.message} {details}".rstrip())
    return Text.assemble(
        (f"{time} #{line.attempt} ", "dim"),
        (f"{line.level:<8} ", _LEVEL_STYLES.get(line.level, "")),
        (f"{plain(line.logger)}: " if line.logger else "", "dim"),
        rest,
        f"\n{plain(str(trace))}" if trace else "",
    )


def short_id(job_id: str) -> str:
    """Return the end of an id, which is enough to distinguish jobs on a screen."""
    return f"…{job_id[-_SHORT_ID_LENGTH:]}" if len(job_id) > _SHORT_ID_LENGTH else job_id


def job_view(job: Job, output: Sequence[Any]) -> RenderableType:
    """Return all fields of a job and its output."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("id", job.id)
    grid.add_row("type", plain(job.type))
    grid.add_row("queue", plain(job.queue))
    grid.add_row("state", state_text(job.state))
    for name, value in _field_texts(job, output):
        if value:
            grid.add_row(name, Text(value))
    return grid


def event_text(event: JobEvent) -> Text:
    """Return an event line with time, job, event type and details."""
    return _event_line(event, f"{event.job_id} {plain(event.job_type)} ", "")


def history_text(event: JobEvent) -> Text:
    """Return an event line without the job: time, number, event type, state and details."""
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
        " ".join(filter(None, (_detail_text(event), _caller_text(event)))),
    )
    line.rstrip()
    return line


def subscription_view(subscription: Subscription) -> RenderableType:
    """Return all fields of a subscription."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("name", subscription.name)
    grid.add_row("filter", filter_text(subscription))
    grid.add_row("consumer", plain(subscription.consumer) or "none")
    lag = span_text(subscription.lag) if subscription.lag is not None else "none"
    grid.add_row("lag", Text(lag))
    grid.add_row("acknowledged", time_text(subscription.ack_time) or "never")
    grid.add_row("created", time_text(subscription.create_time))
    return grid


def principal_view(principal: Principal) -> RenderableType:
    """Return all fields of a principal."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    acting = principal.acting_tenant
    for name, value in (
        ("name", principal.name),
        ("tenant", principal.tenant),
        ("acting in", acting if acting != principal.tenant else ""),
        ("kind", principal.kind),
        ("role", principal.role),
        ("scope", " ".join(principal.scope)),
        ("rights", " ".join(principal.rights)),
        ("credential", principal.credential),
        ("expires", time_text(principal.expire_time)),
    ):
        if value:
            grid.add_row(name, Text(plain(value)))
    return grid


def tenant_view(tenant: Tenant) -> RenderableType:
    """Return all fields of a tenant."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("name", Text(plain(tenant.name)))
    grid.add_row("state", Text(tenant.state))
    grid.add_row("created", Text(time_text(tenant.create_time)))
    grid.add_row("quotas", Text(quotas_text(tenant.quotas) or "none"))
    grid.add_row("ceilings", Text(quotas_text(tenant.ceilings) or "none"))
    if tenant.deletion is not None:
        jobs = tenant.deletion.jobs
        total = "" if jobs is None else f" of {jobs:,}"
        grid.add_row("deletion", Text(f"{tenant.deletion.removed_jobs:,}{total} jobs removed"))
    return grid


def quotas_text(quotas: Quotas) -> str:
    """Return quotas as `waiting_jobs=1000 open_streams=5`."""
    values = {one.name: getattr(quotas, one.name) for one in fields(quotas)}
    return " ".join(f"{name}={value}" for name, value in values.items() if value is not None)


def filter_text(subscription: Subscription) -> Text:
    if "filter" in subscription.unreadable_fields:
        return Text("unreadable")
    job_filter = subscription.filter
    parts = [
        *(("queue", queue) for queue in job_filter.queues),
        *(("type", job_type) for job_type in job_filter.types),
        *(("state", state.lower()) for state in job_filter.states),
        *(("label", f"{key}={value}") for key, value in job_filter.labels.items()),
        *(("batch", job_filter.batch_id) for _ in range(bool(job_filter.batch_id))),
        *(("job", job_id) for job_id in job_filter.job_ids),
    ]
    return Text(plain(" ".join(f"{name}:{value}" for name, value in parts)) or "all jobs")


def _field_texts(job: Job, output: Sequence[Any]) -> Iterable[tuple[str, str]]:
    yield "priority", str(job.priority) if job.priority else ""
    yield "labels", plain(" ".join(f"{key}={value}" for key, value in job.labels.items()))
    yield "attempt", f"{job.attempt} ({job.retries_used} retries used)" if job.attempt else ""
    yield "progress", progress_text(job.progress) if job.progress else ""
    yield "error", error_text(job.error) if job.error else ""
    yield "stack trace", plain(job.error.stack_trace) if job.error else ""
    yield "unreadable", plain(" ".join(job.unreadable_fields))
    yield "withheld", plain(" ".join(job.withheld_fields))
    yield "worker", job.worker_id
    yield "request id", plain(job.request_id)
    yield "correlation id", plain(job.correlation_id)
    yield "batch", job.batch_id
    yield "timeout", span_text(job.timeout) if job.timeout else ""
    yield "deadline", time_text(job.deadline)
    yield "submitted", time_text(job.create_time)
    yield "submitted by", plain(job.submitted_by)
    yield "due", time_text(job.schedule_time)
    yield "queued", time_text(job.queue_time)
    yield "started", time_text(job.start_time)
    yield "cancel requested", time_text(job.cancel_request_time)
    yield "ended", time_text(job.end_time)
    yield "payload", _document_text(job.payload)
    yield "output", "\n".join(plain(json_line(piece)) for piece in output)
    yield "result", _document_text(job.result) if job.state is JobState.SUCCEEDED else ""


def _document_text(value: Any) -> str:
    return plain(json_text(value))


def _caller_text(event: JobEvent) -> str:
    parts = [f"by {event.principal}" if event.principal else "", event.reason]
    return plain(": ".join(part for part in parts if part))


def _detail_text(event: JobEvent) -> str:
    if event.withheld_fields:
        kind = f"{event.error.type}: " if event.error and event.error.type else ""
        return plain(f"{kind}withheld")
    if event.error:
        due = f", again {time_text(event.schedule_time)}" if event.schedule_time else ""
        return error_text(event.error) + due
    if event.progress:
        return progress_text(event.progress)
    if event.output is not None:
        text = plain(json_line(event.output))
        return text if len(text) <= _MAX_OUTPUT_LENGTH else f"{text[:_MAX_OUTPUT_LENGTH]}…"
    if event.schedule_time:
        return f"due {time_text(event.schedule_time)}"
    return f"worker {event.worker_id}" if event.worker_id else ""

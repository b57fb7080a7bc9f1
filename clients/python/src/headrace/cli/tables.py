"""Tables of jobs, handlers, subscriptions and statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from headrace import (
    ApiKey,
    AuditEvent,
    CertificateBinding,
    HandlerInfo,
    Job,
    JobState,
    Latency,
    Overview,
    QueueStatus,
    RunningJob,
    Stats,
    Subscription,
    Tenant,
    TenantUsage,
    User,
    Worker,
)
from headrace.cli.text import (
    error_text,
    filter_text,
    plain,
    progress_text,
    quotas_text,
    short_id,
    span_text,
    state_text,
    time_text,
)

if TYPE_CHECKING:
    from headrace.cli.contexts import ContextSummary

# The gap between two columns of the job list.
_GAP: Final = "  "
# The minimum number of columns of the job list.
_MIN_COLUMNS: Final = 2
# Maximum width of type and queue names if the job list is too wide.
_MAX_NAME_WIDTH: Final = 20
# Minimum width of type and queue names in a table of counts.
_MIN_NAME_WIDTH: Final = 8


class JobsTable:
    """A table of jobs: one line per job, with a note.

    If the lines are too wide for the terminal, notes move to separate lines. Then long names are
    truncated, then columns are dropped from the right. Ids are shortened last, because users copy
    them.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._notes = ["", *(" ".join(_note_of(job).split()) for job in jobs)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = self._rows(short=False)
        widths = _widths(rows)
        longest = max(map(cell_len, self._notes))
        beside = not longest or _line_width([*widths, longest]) <= options.max_width
        if _line_width(widths) > options.max_width:
            widths[2:4] = [min(width, _MAX_NAME_WIDTH) for width in widths[2:4]]
        while len(widths) > _MIN_COLUMNS and _line_width(widths) > options.max_width:
            widths.pop()
        if _line_width(widths) > options.max_width:
            rows = self._rows(short=True)
            widths = _widths(rows)[:_MIN_COLUMNS]
        for row, note in zip(rows, self._notes, strict=True):
            line = Text(_GAP).join(
                _fit_cell(cell, width) for cell, width in zip(row, widths, strict=False)
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


def _fit_cell(cell: Text, width: int) -> Text:
    fitted = cell.copy()
    fitted.truncate(width, overflow="ellipsis", pad=True)
    return fitted


def _note_of(job: Job) -> str:
    if job.error and job.state is not JobState.SUCCEEDED:
        return error_text(job.error)
    if job.progress and job.state is JobState.RUNNING:
        return progress_text(job.progress)
    if job.state in {JobState.SCHEDULED, JobState.RETRYING} and job.schedule_time:
        return f"due {time_text(job.schedule_time)}"
    return ""


def stats_view(stats: Stats) -> RenderableType:
    """Return tables of the job counts by queue and by type."""
    shown = [state for state in JobState if stats.states.get(state)]
    names = [state.name for state in shown]
    queues = _table("QUEUE", *names, "OLDEST QUEUED")
    for queue in stats.queues:
        age = span_text(queue.age) if queue.age is not None else ""
        queues.add_row(plain(queue.queue), *_count_cells(queue.states, shown), age)
    types = _table("TYPE", *names)
    for job_type in stats.types:
        types.add_row(plain(job_type.type), *_count_cells(job_type.states, shown))
    if not shown:
        return Text("no jobs")
    queues.add_row(Text("all", style="bold"), *_count_cells(stats.states, shown), "", style="bold")
    # In a narrow terminal, headers and names are truncated, but numbers are not.
    for table in (queues, types):
        for column in table.columns:
            column.no_wrap = False
            column.min_width = max(cell_len(str(cell)) for cell in column.cells)
        table.columns[0].min_width = _MIN_NAME_WIDTH
    return Group(queues, Text(), types)


def workers_table(workers: Iterable[Worker]) -> Table:
    rows = _table("ID", "NAME", "STATE", "BUSY", "SLOTS", "QUEUES", "TYPES")
    for worker in workers:
        state = "draining" if worker.draining else "live"
        rows.add_row(
            worker.id,
            plain(worker.name),
            state if worker.live else "lost",
            str(worker.busy_slots),
            str(worker.slots),
            plain(", ".join(worker.queues) or "all"),
            plain(", ".join(worker.types)),
        )
    return rows


def running_jobs_table(jobs: Iterable[tuple[Worker, RunningJob]]) -> Table:
    rows = _table("RUNNING JOB", "TYPE", "QUEUE", "ATTEMPT", "STARTED", "WORKER")
    for worker, job in jobs:
        rows.add_row(
            job.job_id,
            plain(job.type),
            plain(job.queue),
            str(job.attempt),
            time_text(job.start_time),
            plain(worker.name),
        )
    return rows


def queues_table(queues: Sequence[QueueStatus]) -> Table:
    shown = [state for state in JobState if any(queue.states.get(state) for queue in queues)]
    rows = _table("QUEUE", *(state.name for state in shown), "OLDEST QUEUED", "WORKERS", "SLOTS")
    for queue in queues:
        rows.add_row(
            plain(queue.queue),
            *_count_cells(queue.states, shown),
            time_text(queue.oldest_queue_time),
            str(queue.workers),
            str(queue.slots),
        )
    return rows


def overview_view(overview: Overview) -> RenderableType:
    """Return the live view of a tenant."""
    numbers = _table("", *(f"LAST {span_text(r.window)}" for r in overview.rates if r.window))
    for name in ("submitted", "started", "retried", "succeeded", "failed", "cancelled"):
        numbers.add_row(f"{name}/s", *(f"{getattr(r, name):.1f}" for r in overview.rates))
    parts: list[RenderableType] = [
        Text(
            f"{time_text(overview.overview_time)}  {overview.busy_slots} of {overview.slots} slots "
            f"busy, {overview.workers} workers, {overview.draining_workers} draining"
        ),
        Text(),
        queues_table(overview.queues) if overview.queues else Text("no queues"),
        Text(),
        numbers,
        Text(),
        Text(f"wait {_latency_text(overview.wait)}   run {_latency_text(overview.run)}"),
    ]
    if overview.failing_types:
        failing = _table("FAILING TYPE", "ERROR", "ATTEMPTS", "LAST JOB")
        for one in overview.failing_types:
            failing.add_row(
                plain(one.type), plain(one.error_type), str(one.attempts), one.last_job_id
            )
        parts += [Text(), failing]
    return Group(*parts)


def _latency_text(latency: Latency) -> str:
    if latency.p50 is None or latency.p95 is None:
        return "-"
    return f"p50 {span_text(latency.p50)}, p95 {span_text(latency.p95)}"


def handlers_table(handlers: Iterable[HandlerInfo]) -> Table:
    rows = _table("TYPE", "QUEUE", "WORKERS", "TIMEOUT", "DESCRIPTION")
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


def _table(*columns: str) -> Table:
    """Return an empty table without borders, whose cells are truncated on the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    return table


def subscriptions_table(subscriptions: Iterable[Subscription]) -> Table:
    rows = _table("NAME", "CONSUMER", "LAG", "ACKNOWLEDGED", "FILTER")
    for subscription in subscriptions:
        rows.add_row(
            subscription.name,
            plain(subscription.consumer) or "-",
            span_text(subscription.lag) if subscription.lag is not None else "-",
            time_text(subscription.ack_time) or "never",
            filter_text(subscription),
        )
    return rows


def audit_table(events: Iterable[AuditEvent]) -> Table:
    rows = _table("TIME", "PRINCIPAL", "METHOD", "TARGET", "RESULT", "ADDRESS")
    for event in events:
        result = f"denied: {event.reason}" if event.denied else "allowed"
        if event.count > 1:
            result += f" ({event.count} times)"
        rows.add_row(
            time_text(event.event_time),
            plain(event.principal) or "-",
            plain(event.method),
            plain(event.target) or "-",
            plain(result),
            plain(event.address) or "-",
        )
    return rows


def keys_table(keys: Iterable[ApiKey], now: datetime) -> Table:
    """Return a table of API keys, with their states at `now`."""
    rows = _table("ID", "PRINCIPAL", "ROLE", "STATE", "CREATED", "LAST USED", "SCOPE")
    for key in keys:
        rows.add_row(
            key.id,
            plain(key.principal),
            key.role,
            _key_state(key, now),
            time_text(key.create_time),
            time_text(key.last_use_time) or "never",
            plain(" ".join(key.scope)) or "-",
        )
    return rows


def _key_state(key: ApiKey, now: datetime) -> str:
    if key.revoke_time is not None:
        return f"revoked {time_text(key.revoke_time)}"
    if key.expire_time is None:
        return "valid"
    state = "expired" if key.expire_time <= now else "valid until"
    return f"{state} {time_text(key.expire_time)}"


def certificate_bindings_table(bindings: Iterable[CertificateBinding]) -> Table:
    rows = _table("NAME", "PRINCIPAL", "ROLE", "CREATED", "SCOPE")
    for binding in bindings:
        rows.add_row(
            plain(binding.san),
            plain(binding.principal),
            binding.role,
            time_text(binding.create_time),
            plain(" ".join(binding.scope)) or "-",
        )
    return rows


def users_table(users: Iterable[User]) -> Table:
    rows = _table("NAME", "ROLE", "STATE", "CREATED", "LAST LOGIN", "SCOPE")
    for user in users:
        rows.add_row(
            plain(user.name),
            user.role,
            "disabled" if user.disabled else "enabled",
            time_text(user.create_time),
            time_text(user.last_login_time) or "never",
            plain(" ".join(user.scope)) or "-",
        )
    return rows


def contexts_table(contexts: Iterable[ContextSummary]) -> Table:
    rows = _table("", "NAME", "TARGET", "TLS", "TENANT", "CREDENTIAL")
    for context in contexts:
        rows.add_row(
            "*" if context.current else "",
            plain(context.name),
            plain(context.target),
            "yes" if context.tls else "no",
            plain(context.tenant) or "-",
            plain(context.credential),
        )
    return rows


def _short_time(time: datetime | None) -> str:
    """Return the time of day, and the date unless it is today."""
    if time is None:
        return ""
    local = time.astimezone()
    today = local.date() == datetime.now(local.tzinfo).date()
    return f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M}"


def _count_cells(states: Mapping[JobState, int], shown: Sequence[JobState]) -> list[str]:
    return [str(states.get(state, 0) or "-") for state in shown]


def tenants_table(tenants: Iterable[Tenant]) -> Table:
    rows = _table("NAME", "STATE", "CREATED", "QUOTAS", "CEILINGS")
    for tenant in tenants:
        rows.add_row(
            plain(tenant.name),
            tenant.state,
            time_text(tenant.create_time),
            quotas_text(tenant.quotas) or "-",
            quotas_text(tenant.ceilings) or "-",
        )
    return rows


def usage_table(usage: TenantUsage) -> Table:
    rows = _table("QUOTA", "USED", "LIMIT")
    used = {
        "waiting_jobs": usage.waiting_jobs,
        "payload_bytes": usage.payload_bytes,
        "jobs_per_day": usage.jobs_today,
        "submits_per_second": None,
        "open_streams": usage.open_streams,
    }
    for name, number in used.items():
        limit = getattr(usage.limits, name)
        rows.add_row(
            name,
            "-" if number is None else f"{number:,}",
            "none" if limit is None else f"{limit:,}",
        )
    rows.add_row("running jobs", f"{usage.running_jobs:,}", "")
    return rows

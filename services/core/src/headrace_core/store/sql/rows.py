"""Rows of jobs and events: their select lists, their conversion to the domain, and new jobs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple

from asyncpg.pgproto import pgproto
from sqlalchemy import DateTime, Integer, Text, Uuid
from sqlalchemy.dialects import postgresql

from headrace_core.domain.attempt import AttemptKey, ClaimedJob
from headrace_core.domain.ids import BatchId, JobId, uuid7_bytes
from headrace_core.domain.job import PRIORITY_POINT, UNREADABLE_TIME, Job, JobEvent, JobSpec
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.trace import TraceContext
from headrace_core.store.sql.connection import Row
from headrace_core.store.sql.documents import (
    DECODING_ERRORS,
    ERROR,
    LABELS,
    MAX_PROGRESS_BYTES,
    NO_LABELS,
    NO_OVERRIDES,
    FieldReader,
    from_labels,
    from_overrides,
    to_error,
    to_interval,
    to_labels,
    to_overrides,
    to_progress,
    to_time,
)
from headrace_core.store.sql.tables import jobs
from headrace_core.store.sql.times import readable_interval_sql, readable_time_sql
from headrace_core.store.sql.unreadable import UNREADABLE_ROWS

# The fields of a job are the columns of the table with the same names. The type of a column selects
# its conversion, so a new field of a listed type needs only a line in `created_job`.
_STORED = [field.name for field in fields(Job) if field.name in jobs.c]


def _of_type(*types: type) -> list[str]:
    return [name for name in _STORED if isinstance(jobs.c[name].type, types)]


_TIMES: Final = _of_type(DateTime)
_UNREADABLE_TIMES: Final = {
    name: None if jobs.c[name].nullable else UNREADABLE_TIME for name in _TIMES
}
_PLAIN_COLUMNS: Final = [
    name for name in _of_type(Text, Uuid, Integer) if name not in {"state", "trace_context"}
]
_DOCUMENT_COLUMNS: Final = ("labels", "retry", "error")


def _progress_column(table: str = "") -> str:
    """Return progress as text. Oversized progress has no counters and a shorter message.

    The size of the column is known without reading it. It may be the compressed size, so
    `to_progress` checks again.
    """
    column = f"{table}progress"
    return f"""CASE WHEN pg_column_size({column}) > {MAX_PROGRESS_BYTES}
        THEN json_build_object(
            'fraction', {column}->'fraction', 'message', left({column}->>'message', 1000),
            'counters', json_build_object()
        )::text ELSE {column}::text END AS progress"""


def job_columns(*, full: bool, table: str = "") -> str:
    """Return the select list that `to_job` reads."""
    of = f"{table}." if table else ""
    columns = [f"{of}{name}" for name in (*_PLAIN_COLUMNS, "state")]
    columns += [f"{of}{name}::text AS {name}" for name in _DOCUMENT_COLUMNS]
    columns += [f"{readable_time_sql(of + name)} AS {name}" for name in _TIMES]
    columns.append(_progress_column(of))
    columns.append(f"{of}trace_context")
    columns.append(f"{readable_interval_sql(f'{of}timeout')} AS timeout")
    if full:
        columns += [f"{of}payload::text AS payload", f"{of}result::text AS result"]
        columns.append(f"{of}stack_trace")
    else:
        columns += ["NULL AS payload", "NULL AS result", "NULL AS stack_trace"]
    return ", ".join(columns)


# The principal and the reason in one column, because most events have neither. The separator cannot
# be part of them.
_SEPARATOR: Final = "\x1f"
_CALLER: Final = f"""CASE WHEN e.seq = 1 THEN j.submitted_by
    WHEN e.principal IS NOT NULL OR e.reason IS NOT NULL
    THEN concat(e.principal, chr({ord(_SEPARATOR)}), e.reason) END"""

_EVENT = (
    *(
        "e.job_id",
        "e.seq",
        "e.type",
        "e.state",
        "e.attempt",
        f"{readable_time_sql('e.time')} AS time",
    ),
    *("j.type AS job_type", "j.queue", "j.labels::text AS labels", "j.batch_id", "e.tenant"),
    *("e.error::text AS error", _progress_column("e."), "e.output::text AS output"),
    *(f"{readable_time_sql('e.due_time')} AS due_time", "e.worker_id"),
    f"{_CALLER} AS caller",
    *("e.xid", "e.position"),
)
EVENT_COLUMNS = ", ".join(_EVENT)
_EVENT_WIDTH = len(_EVENT)
# The same columns, all NULL.
NO_EVENT = ", ".join(f"NULL AS {re.split('[. ]', column)[-1]}" for column in _EVENT)


def to_job(row: Row) -> Job:
    """Convert a row with `job_columns`. Unreadable fields are left out, counted and logged."""
    job = decode_job(row)
    if job.unreadable:
        UNREADABLE_ROWS.record(f"job {job.id}", job.unreadable)
    return job


def decode_job(row: Row) -> Job:
    """Convert a row like `to_job`, but do not count unreadable fields."""
    found = FieldReader()
    stack_trace = row["stack_trace"]
    plain = {name: row[name] for name in _PLAIN_COLUMNS}
    times: dict[str, Any] = {
        name: found.read(name, to_time, row[name], default)
        for name, default in _UNREADABLE_TIMES.items()
    }
    return Job(
        **plain,
        payload=row["payload"],
        labels=found.read("labels", to_labels, row["labels"], NO_LABELS),
        timeout=found.read("timeout", to_interval, row["timeout"], None),
        retry=found.read("retry", to_overrides, row["retry"], NO_OVERRIDES),
        state=JobState(row["state"]),
        progress=found.read("progress", to_progress, row["progress"], None),
        result=row["result"],
        error=found.read("error", lambda error: to_error(error, stack_trace), row["error"], None),
        **times,
        trace_context=_to_trace_context(row["trace_context"]),
        unreadable=tuple(found.unreadable),
    )


def _to_trace_context(stored: str | None) -> TraceContext | None:
    return None if stored is None else TraceContext.parse(stored)


# The select list that `to_claimed_job` reads, from the columns of `jobs` and `unreadable`, which
# names the columns that cannot be read.
CLAIMED_COLUMNS = """
    id, attempt, tenant, type, queue, payload::text AS payload, labels::text AS labels,
    retries_used, worker_losses, interruptions, retry::text AS retry, correlation_id, timeout,
    trace_context, deadline, deadline - start_time AS time_left,
    CASE WHEN isfinite(queue_time) THEN start_time - queue_time END AS wait, unreadable
"""


def to_claimed_job(row: Row) -> ClaimedJob:
    """Convert a row with `CLAIMED_COLUMNS`. Unreadable fields are left out, counted and logged."""
    found = FieldReader()
    found.unreadable += row["unreadable"].split()
    labels = found.read("labels", to_labels, row["labels"], NO_LABELS)
    retry = found.read("retry", to_overrides, row["retry"], NO_OVERRIDES)
    if found.unreadable:
        UNREADABLE_ROWS.record(f"job {row['id']}", found.unreadable)
    return ClaimedJob(
        key=AttemptKey(row["id"], row["attempt"]),
        tenant=row["tenant"],
        type=row["type"],
        queue=row["queue"],
        payload=row["payload"],
        labels=labels,
        retries_used=row["retries_used"],
        worker_losses=row["worker_losses"],
        interruptions=row["interruptions"],
        retry=retry,
        correlation_id=row["correlation_id"],
        timeout=row["timeout"],
        deadline=row["deadline"],
        time_left=row["time_left"],
        wait=row["wait"],
        trace_context=_to_trace_context(row["trace_context"]),
        unreadable=found.unreadable,
    )


def to_event(row: Row) -> JobEvent:
    """Convert a row that begins with EVENT_COLUMNS. Unreadable fields are left out.

    The event itself is never left out: a stream without it would have a gap.
    """
    # Every event of every stream is converted here. Unpacking the columns by position, and finding
    # enum members in a dictionary, takes a third of the time.
    (
        job_id,
        seq,
        kind,
        state,
        attempt,
        time,
        job_type,
        queue,
        labels,
        batch_id,
        tenant,
        error,
        progress,
        output,
        due_time,
        worker_id,
        caller,
        xid,
        position,
    ) = row[:_EVENT_WIDTH]
    try:
        event = JobEvent(
            job_id=job_id,
            seq=seq,
            type=_EVENT_TYPES[kind],
            state=_STATES[state],
            attempt=attempt,
            time=time if time.tzinfo is not None else to_time(time),
            job_type=job_type,
            queue=queue,
            labels=NO_LABELS if labels == "{}" or labels is None else LABELS.decode(labels),
            batch_id=batch_id,
            tenant=tenant,
            error=None if error is None else ERROR.decode(error),
            progress=None if progress is None else to_progress(progress),
            output=output,
            due_time=None if due_time is None else to_time(due_time),
            worker_id=worker_id,
            xid=xid,
            position=position,
        )
    except DECODING_ERRORS:
        event, fields = decode_event(row)
        UNREADABLE_ROWS.record(f"event {seq} of job {job_id}", fields)
    if caller is not None:
        event.principal, event.reason = _read_caller(caller)
    return event


def _read_caller(caller: str) -> tuple[str | None, str | None]:
    """Return the principal and the reason of an event."""
    principal, _, reason = caller.partition(_SEPARATOR)
    return principal or None, reason or None


def decode_event(row: Row) -> tuple[JobEvent, Sequence[str]]:
    """Convert a row like `to_event`, without counting it. Also return its unreadable fields.

    This is slower than `to_event`.
    """
    found = FieldReader()
    labels = row["labels"]
    event = JobEvent(
        job_id=row["job_id"],
        seq=row["seq"],
        type=_EVENT_TYPES[row["type"]],
        state=_STATES[row["state"]],
        attempt=row["attempt"],
        time=found.read("time", to_time, row["time"], UNREADABLE_TIME),
        job_type=row["job_type"],
        queue=row["queue"],
        labels=NO_LABELS if labels is None else found.read("labels", to_labels, labels, NO_LABELS),
        batch_id=row["batch_id"],
        tenant=row["tenant"],
        error=found.read("error", to_error, row["error"], None),
        progress=found.read("progress", to_progress, row["progress"], None),
        output=row["output"],
        due_time=found.read("due_time", to_time, row["due_time"], None),
        worker_id=row["worker_id"],
        xid=row["xid"],
        position=row["position"],
    )
    return event, found.unreadable


_EVENT_TYPES = {kind.value: kind for kind in EventType}
_STATES = {state.value: state for state in JobState}


# New jobs.

# The rank of a job that is due at `due` (see tables.jobs.rank).
RANK = (
    "(extract(epoch FROM {due}) * 1000 - "
    f"{{priority}} * {PRIORITY_POINT.total_seconds() * 1000:.0f})"
)


def new_ids(count: int) -> list[JobId]:
    """Return increasing job ids, in asyncpg's UUID type to avoid a conversion."""
    return [JobId(pgproto.UUID(raw)) for raw in uuid7_bytes(count)]


class InitialValues(NamedTuple):
    """The values of a new job that the database sets."""

    state: JobState
    create_time: datetime
    due_time: datetime
    queue_time: datetime | None


def to_initial_values(row: Row) -> InitialValues:
    """Convert a row with the columns of `InitialValues`."""
    return InitialValues(
        JobState(row["state"]), row["create_time"], row["due_time"], row["queue_time"]
    )


# The fields of a spec that are sent as JSON text, and the fields without a column.
_ENCODED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "labels": from_labels,
    "retry": from_overrides,
}
_WITHOUT_COLUMN: Final = {"schedule_time": "timestamptz", "deadline_after": "interval"}


def _parameter(name: str) -> str:
    """Return the SQL type of the parameter for a field of a spec."""
    if name in _ENCODED:
        return "text"
    if name in _WITHOUT_COLUMN:
        return _WITHOUT_COLUMN[name]
    return jobs.c[name].type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]


def _stored(name: str) -> str:
    """Return the value of the column for a field of a spec, in SQL of `input`."""
    if name == "deadline":
        return "coalesce(deadline, now + deadline_after)"
    return f"{name}::jsonb" if name in _ENCODED else name


# The parameters of a spec, with their types.
SPEC_TYPES: Final = {field.name: _parameter(field.name) for field in fields(JobSpec)}
_get_fields: Final = attrgetter(*SPEC_TYPES)
_ENCODERS: Final = [(list(SPEC_TYPES).index(name), encode) for name, encode in _ENCODED.items()]


def created_job(
    job_id: JobId,
    spec: JobSpec,
    start: InitialValues,
    *,
    tenant: str,
    request_id: str | None = None,
    batch_id: BatchId | None = None,
    correlation_id: str | None = None,
    submitted_by: str | None = None,
    trace_context: TraceContext | None = None,
) -> Job:
    """Return an inserted job without reading it."""
    state, create_time, due_time, queue_time = start
    return Job(
        id=job_id,
        tenant=tenant,
        # A new field of a spec needs a line here. A copy by names would take a quarter longer.
        type=spec.type,
        queue=spec.queue,
        priority=spec.priority,
        labels=spec.labels,
        timeout=spec.timeout,
        retry=spec.retry,
        deadline=(
            spec.deadline if spec.deadline_after is None else create_time + spec.deadline_after
        ),
        request_id=request_id,
        batch_id=batch_id,
        state=state,
        create_time=create_time,
        due_time=due_time,
        queue_time=queue_time,
        update_time=create_time,
        correlation_id=correlation_id,
        submitted_by=submitted_by,
        trace_context=trace_context,
    )


def spec_values(spec: JobSpec) -> Sequence[Any]:
    """Return the values of the parameters in `SPEC_TYPES`."""
    values = [*_get_fields(spec)]
    for index, encode in _ENCODERS:
        values[index] = encode(values[index])
    return values


def spec_arrays(rows: Iterable[Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Convert the results of `spec_values` for many specs to one array for each column."""
    columns = zip(*rows, strict=True)
    # Send an empty array for a column of NULLs: unnest() fills shorter arrays with NULLs.
    return {
        name: () if column.count(None) == len(column) else column
        for name, column in zip(SPEC_TYPES, columns, strict=True)
    }


def unnest_sql(columns: Mapping[str, str]) -> str:
    """Return `unnest(…) AS t (…)`, with one array parameter for each column."""
    values = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in columns.items())
    return f"unnest({values}) AS t ({', '.join(columns)})"


# The columns with a value for each job of a batch.
PER_JOB: Final = {"id": "uuid", "payload": "text"}

# The columns of `input` that are computed from `schedule_time` and `now`.
DUE_COLUMNS: Final = """
    greatest(schedule_time, now) AS due,
    schedule_time IS NOT NULL AND schedule_time > now AS later
"""
INITIAL_STATE: Final = "CASE WHEN later THEN 'scheduled' ELSE 'queued' END"
QUEUE_TIME: Final = "CASE WHEN later THEN NULL ELSE now END"

# The columns that every submit sets, for jobs and for batches, in SQL of `input`.
COMMON_VALUES: Final = {
    "id": "id",
    "payload": "payload::json",
    **{name: _stored(name) for name in SPEC_TYPES if name in jobs.c},
    "state": INITIAL_STATE,
    "rank": RANK.format(due="due", priority="priority"),
    "create_time": "now",
    "due_time": "due",
    "queue_time": QUEUE_TIME,
    "update_time": "now",
}

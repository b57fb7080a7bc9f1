"""The columns of new jobs, and the jobs that a submit returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple

from asyncpg.pgproto import pgproto

from headrace_core.domain.ids import BatchId, JobId, uuid7_bytes
from headrace_core.domain.job import PRIORITY_POINT, Job, JobSpec
from headrace_core.domain.lifecycle import JobState
from headrace_core.store.sql.connection import Row
from headrace_core.store.sql.rows import from_labels, from_overrides

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


def created_job(
    job_id: JobId,
    spec: JobSpec,
    start: InitialValues,
    *,
    tenant: str,
    request_id: str | None = None,
    batch_id: BatchId | None = None,
    correlation_id: str | None = None,
) -> Job:
    """Return an inserted job without reading it."""
    return Job(
        id=job_id,
        tenant=tenant,
        type=spec.type,
        queue=spec.queue,
        payload=None,
        priority=spec.priority,
        labels=spec.labels,
        timeout=spec.timeout,
        deadline=(
            spec.deadline
            if spec.deadline_after is None
            else start.create_time + spec.deadline_after
        ),
        retry=spec.retry,
        request_id=request_id,
        batch_id=batch_id,
        state=start.state,
        attempt=0,
        retries_used=0,
        seq=1,
        progress=None,
        result=None,
        error=None,
        worker_id=None,
        create_time=start.create_time,
        due_time=start.due_time,
        queue_time=start.queue_time,
        start_time=None,
        cancel_request_time=None,
        end_time=None,
        update_time=start.create_time,
        correlation_id=correlation_id,
    )


class _Field(NamedTuple):
    """One field of a spec in the statements that insert jobs.

    Attributes:
        kind: the SQL type of the parameter.
        stored: the value of the column in `jobs`, in SQL of `input`; None for a field without a
            column.
        encode: converts the value to the parameter; None if no conversion is needed.
    """

    kind: str
    stored: str | None
    encode: Callable[[Any], Any] | None = None


# A new field of JobSpec needs a line here and a line in `created_job`.
_FIELDS: Final = {
    "type": _Field("text", "type"),
    "queue": _Field("text", "queue"),
    "priority": _Field("smallint", "priority"),
    "labels": _Field("text", "labels::jsonb", from_labels),
    "schedule_time": _Field("timestamptz", None),
    "timeout": _Field("interval", "timeout"),
    "deadline": _Field("timestamptz", "coalesce(deadline, now + deadline_after)"),
    "deadline_after": _Field("interval", None),
    "retry": _Field("text", "retry::jsonb", from_overrides),
}
_get_fields: Final = attrgetter(*_FIELDS)
_ENCODERS: Final = [
    (index, field.encode)
    for index, field in enumerate(_FIELDS.values())
    if field.encode is not None
]

# The parameters of a spec, with their types.
SPEC_TYPES: Final = {name: field.kind for name, field in _FIELDS.items()}


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
    **{name: field.stored for name, field in _FIELDS.items() if field.stored is not None},
    "state": INITIAL_STATE,
    "rank": RANK.format(due="due", priority="priority"),
    "create_time": "now",
    "due_time": "due",
    "queue_time": QUEUE_TIME,
    "update_time": "now",
}

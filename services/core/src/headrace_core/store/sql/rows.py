"""Conversion of rows to domain objects, and of domain values to their stored form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

import msgspec

from headrace_core.domain.attempt import AttemptKey, ClaimedJob
from headrace_core.domain.job import (
    UNREADABLE_TIME,
    Job,
    JobError,
    JobEvent,
    JsonText,
    Progress,
    replace_surrogates,
)
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.limits import (
    ATTEMPTS,
    JITTER,
    MAX_DURATION,
    MAX_PROGRESS_MESSAGE_BYTES,
    MULTIPLIER,
    Bounds,
)
from headrace_core.domain.retry import RetryOverrides, RetryPolicy, set_fields
from headrace_core.store.sql.connection import Row
from headrace_core.store.sql.times import readable_interval_sql, readable_time_sql
from headrace_core.store.sql.unreadable import UNREADABLE_ROWS

_T = TypeVar("_T")
_Interval = TypeVar("_Interval", timedelta, timedelta | None)

_DOCUMENT_COLUMNS = ("labels", "retry", "error")
_JOB_TIMES = ("create_time", "due_time", "update_time")
_OPTIONAL_JOB_TIMES = ("deadline", "queue_time", "start_time", "cancel_request_time", "end_time")
# Columns that need no conversion. A new column of this kind needs no other change here.
_PLAIN_COLUMNS = (
    *("id", "tenant", "type", "queue", "priority", "request_id", "batch_id", "attempt"),
    *("retries_used", "seq", "worker_id", "correlation_id"),
)

# The largest progress that is read, in bytes. A worker can write at most two thirds of it. An older
# version had no limit.
MAX_PROGRESS_BYTES = 65_536


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
    columns += [
        f"{readable_time_sql(of + name)} AS {name}" for name in (*_JOB_TIMES, *_OPTIONAL_JOB_TIMES)
    ]
    columns.append(_progress_column(of))
    columns.append(f"{readable_interval_sql(f'{of}timeout')} AS timeout")
    if full:
        columns += [f"{of}payload::text AS payload", f"{of}result::text AS result"]
        columns.append(f"{of}stack_trace")
    else:
        columns += ["NULL AS payload", "NULL AS result", "NULL AS stack_trace"]
    return ", ".join(columns)


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
    *(f"{readable_time_sql('e.due_time')} AS due_time", "e.worker_id", "e.xid", "e.position"),
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
    fields = FieldReader()
    stack_trace = row["stack_trace"]
    plain = {name: row[name] for name in _PLAIN_COLUMNS}
    times: dict[str, Any] = {
        name: fields.read(name, to_time, row[name], UNREADABLE_TIME) for name in _JOB_TIMES
    }
    for name in _OPTIONAL_JOB_TIMES:
        times[name] = fields.read(name, to_time, row[name], None)
    return Job(
        **plain,
        payload=row["payload"],
        labels=fields.read("labels", to_labels, row["labels"], _NO_LABELS),
        timeout=fields.read("timeout", to_interval, row["timeout"], None),
        retry=fields.read("retry", to_overrides, row["retry"], _NO_OVERRIDES),
        state=JobState(row["state"]),
        progress=fields.read("progress", to_progress, row["progress"], None),
        result=row["result"],
        error=fields.read("error", lambda error: to_error(error, stack_trace), row["error"], None),
        **times,
        unreadable=tuple(fields.unreadable),
    )


# The select list that `to_claimed_job` reads, from the columns of `jobs` and `unreadable`, which
# names the columns that cannot be read.
CLAIMED_COLUMNS = """
    id, attempt, tenant, type, queue, payload::text AS payload, labels::text AS labels,
    retries_used, worker_losses, interruptions, retry::text AS retry, correlation_id, timeout,
    deadline, deadline - start_time AS time_left, unreadable
"""


def to_claimed_job(row: Row) -> ClaimedJob:
    """Convert a row with `CLAIMED_COLUMNS`. Unreadable fields are left out, counted and logged."""
    fields = FieldReader()
    fields.unreadable += row["unreadable"].split()
    labels = fields.read("labels", to_labels, row["labels"], _NO_LABELS)
    retry = fields.read("retry", to_overrides, row["retry"], _NO_OVERRIDES)
    if fields.unreadable:
        UNREADABLE_ROWS.record(f"job {row['id']}", fields.unreadable)
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
        unreadable=fields.unreadable,
    )


class FieldReader:
    """Decode the fields of one row, and collect the names of unreadable ones."""

    __slots__ = ("unreadable",)

    def __init__(self) -> None:
        self.unreadable: list[str] = []

    def read(self, name: str, decode: Callable[[Any], _T], value: Any, default: _T) -> _T:
        """Decode a value; return the default if that fails."""
        try:
            return decode(value)
        except DECODING_ERRORS:
            self.unreadable.append(name)
            return default


# The errors that decoding a stored value can raise.
DECODING_ERRORS: Final = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
)


def to_time(time: datetime | None) -> Any:
    """Return a time that was selected by `readable_time_sql`.

    Raises:
        ValueError: the stored time is unreadable.
    """
    if time is not None and time.tzinfo is None:
        # The driver's value for an infinite time.
        raise ValueError
    return time


def to_interval(interval: _Interval) -> _Interval:
    """Return an interval that was selected by `readable_interval_sql`.

    Raises:
        ValueError: the stored interval is unreadable.
    """
    if interval is not None and interval < timedelta():
        # `readable_interval_sql` replaces an unreadable interval with a negative one.
        raise ValueError
    return interval


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
        xid,
        position,
    ) = row[:_EVENT_WIDTH]
    try:
        return JobEvent(
            job_id=job_id,
            seq=seq,
            type=_EVENT_TYPES[kind],
            state=_STATES[state],
            attempt=attempt,
            time=time if time.tzinfo is not None else to_time(time),
            job_type=job_type,
            queue=queue,
            labels=_NO_LABELS if labels == "{}" or labels is None else _labels.decode(labels),
            batch_id=batch_id,
            tenant=tenant,
            error=None if error is None else _error.decode(error),
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
        return event


def decode_event(row: Row) -> tuple[JobEvent, Sequence[str]]:
    """Convert a row like `to_event`, without counting it. Also return its unreadable fields.

    This is slower than `to_event`.
    """
    fields = FieldReader()
    labels = row["labels"]
    event = JobEvent(
        job_id=row["job_id"],
        seq=row["seq"],
        type=_EVENT_TYPES[row["type"]],
        state=_STATES[row["state"]],
        attempt=row["attempt"],
        time=fields.read("time", to_time, row["time"], UNREADABLE_TIME),
        job_type=row["job_type"],
        queue=row["queue"],
        labels=_NO_LABELS
        if labels is None
        else fields.read("labels", to_labels, labels, _NO_LABELS),
        batch_id=row["batch_id"],
        tenant=row["tenant"],
        error=fields.read("error", to_error, row["error"], None),
        progress=fields.read("progress", to_progress, row["progress"], None),
        output=row["output"],
        due_time=fields.read("due_time", to_time, row["due_time"], None),
        worker_id=row["worker_id"],
        xid=row["xid"],
        position=row["position"],
    )
    return event, fields.unreadable


_EVENT_TYPES = {kind.value: kind for kind in EventType}
_STATES = {state.value: state for state in JobState}
_NO_LABELS: dict[str, str] = {}
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_DURATION.total_seconds())]
_labels = msgspec.json.Decoder(dict[str, str])
_error = msgspec.json.Decoder(JobError)


def _bounds_meta(bounds: Bounds) -> msgspec.Meta:
    return msgspec.Meta(ge=bounds.minimum, le=bounds.maximum)


class _RetryRow(msgspec.Struct):
    """The stored retry overrides, within the limits of `RetryPolicy`.

    Other fields are ignored: a newer version may have stored them during an upgrade.
    """

    max_attempts: Annotated[int, _bounds_meta(ATTEMPTS)] | None = None
    initial_backoff: _Seconds | None = None
    max_backoff: _Seconds | None = None
    multiplier: Annotated[float, _bounds_meta(MULTIPLIER)] | None = None
    jitter: Annotated[float, _bounds_meta(JITTER)] | None = None
    non_retryable_error_types: tuple[str, ...] | None = None


_overrides = msgspec.json.Decoder(_RetryRow)


def to_labels(labels: JsonText) -> dict[str, str]:
    """Decode labels from their JSON object."""
    return _NO_LABELS if labels == "{}" else _labels.decode(labels)


def from_labels(labels: Mapping[str, str]) -> JsonText:
    """Convert labels to their JSON object."""
    return msgspec.json.encode(labels).decode() if labels else "{}"


def to_error(error: JsonText | None, stack_trace: str | None = None) -> JobError | None:
    """Decode an error from its JSON object and its stack trace."""
    if error is None:
        return None
    decoded = _error.decode(error)
    return decoded if stack_trace is None else replace(decoded, stack_trace=stack_trace)


def from_error(error: JobError | None) -> JsonText | None:
    """Encode an error as a JSON object, without its stack trace."""
    if error is None:
        return None
    row = {"type": error.type, "message": error.message, "retryable": error.retryable}
    return msgspec.json.encode(row).decode()


class _ProgressRow(msgspec.Struct):
    """Stored progress. The counters remain text."""

    fraction: float
    message: str
    counters: msgspec.Raw


_progress = msgspec.json.Decoder(_ProgressRow)


def to_progress(progress: JsonText | None) -> Progress | None:
    """Decode progress from its JSON object; truncate oversized progress of older versions."""
    if progress is None:
        return None
    row = _progress.decode(progress)
    message, counters = row.message, bytes(row.counters).decode()
    if len(progress) > MAX_PROGRESS_BYTES:
        message = message.encode()[:MAX_PROGRESS_MESSAGE_BYTES].decode(errors="ignore")
        counters = "{}" if len(counters) > MAX_PROGRESS_BYTES else counters
    return Progress(fraction=row.fraction, message=message, counters=counters)


def from_progress(progress: Progress | None) -> JsonText | None:
    """Encode progress as a JSON object."""
    if progress is None:
        return None
    row = _ProgressRow(
        fraction=progress.fraction,
        message=replace_surrogates(progress.message),
        counters=msgspec.Raw(progress.counters.encode()),
    )
    return msgspec.json.encode(row).decode()


def to_overrides(retry: JsonText | None) -> RetryOverrides:
    """Decode a submitter's retry overrides from their JSON object."""
    if retry is None:
        return _NO_OVERRIDES
    return RetryOverrides(**_present_values(_overrides.decode(retry)))


_NO_OVERRIDES = RetryOverrides()


def from_overrides(retry: RetryOverrides) -> JsonText | None:
    """Encode a submitter's retry overrides as a JSON object; None if there are no overrides."""
    if retry == _NO_OVERRIDES:
        return None
    return _retry_text(retry)


def to_policy(retry: JsonText) -> RetryPolicy:
    """Decode a handler's retry policy from its JSON object."""
    return RetryPolicy(**_present_values(_overrides.decode(retry)))


def from_policy(retry: RetryPolicy) -> JsonText:
    """Encode a handler's retry policy as a JSON object."""
    return _retry_text(retry)


def _retry_text(retry: RetryOverrides | RetryPolicy) -> JsonText:
    fields = {
        name: value.total_seconds() if isinstance(value, timedelta) else value
        for name, value in set_fields(retry).items()
    }
    return msgspec.json.encode(fields).decode()


def _present_values(row: _RetryRow) -> dict[str, Any]:
    fields = {
        name: value for name, value in msgspec.structs.asdict(row).items() if value is not None
    }
    for name in ("initial_backoff", "max_backoff"):
        if name in fields:
            fields[name] = timedelta(seconds=fields[name])
    return fields


def column(items: Sequence[Any], name: str) -> list[Any]:
    """Return one attribute of each item, for an unnest()."""
    return [getattr(item, name) for item in items]

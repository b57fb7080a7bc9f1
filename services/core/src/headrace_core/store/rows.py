"""Rows to domain objects, and the few values that need a form of their own in the database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec

from headrace_core.domain.job import (
    MAX_PROGRESS_MESSAGE_BYTES,
    Job,
    JobError,
    JobEvent,
    JsonText,
    Progress,
    valid_text,
)
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.retry import RetryOverrides, RetryPolicy, said
from headrace_core.store.connection import Row

_PROGRESS = "progress::text AS progress"
_BASIC = (
    "id, tenant, type, queue, priority, labels::text AS labels, timeout, deadline, "
    "retry::text AS retry, request_id, batch_id, state, attempt, retries_used, seq, "
    f"{_PROGRESS}, error::text AS error, worker_id, create_time, due_time, "
    "queue_time, start_time, cancel_request_time, end_time, update_time, correlation_id"
)
_LARGE = "payload::text AS payload, result::text AS result, stack_trace"
_NOT_LARGE = "NULL AS payload, NULL AS result, NULL AS stack_trace"

# The largest progress that is read, in bytes. What a worker may write is at most two thirds of it;
# an older version let any size pass.
MAX_PROGRESS_BYTES = 65_536


def _progress_column(table: str = "") -> str:
    """Progress as text. One that is too large comes without its counters, and with less text.

    The size of the column is known without reading it. It may be compressed, so `to_progress`
    checks again.
    """
    column = f"{table}progress"
    return f"""CASE WHEN pg_column_size({column}) > {MAX_PROGRESS_BYTES}
        THEN json_build_object(
            'fraction', {column}->'fraction', 'message', left({column}->>'message', 1000),
            'counters', json_build_object()
        )::text ELSE {column}::text END AS progress"""


def job_columns(*, full: bool, table: str = "") -> str:
    """The select list that `to_job` reads."""
    prefix = f"{table}." if table else ""
    return ", ".join(
        _progress_column(prefix)
        if part == _PROGRESS
        else part
        if part.startswith("NULL")
        else prefix + part
        for part in f"{_BASIC}, {_LARGE if full else _NOT_LARGE}".split(", ")
    )


_EVENT = (
    *("e.job_id", "e.seq", "e.type", "e.state", "e.attempt", "e.time", "j.type AS job_type"),
    *("j.queue", "j.labels::text AS labels", "j.batch_id", "e.tenant", "e.error::text AS error"),
    *(_progress_column("e."), "e.output::text AS output", "e.due_time", "e.worker_id", "e.xid"),
    "e.position",
)
EVENT_COLUMNS = ", ".join(_EVENT)
_EVENT_WIDTH = len(_EVENT)
# The same columns of a row that is no event.
NO_EVENT = ", ".join(f"NULL AS {re.split('[. ]', column)[-1]}" for column in _EVENT)


def to_job(row: Row) -> Job:
    """A row with `job_columns`."""
    return Job(
        id=row["id"],
        tenant=row["tenant"],
        type=row["type"],
        queue=row["queue"],
        payload=row["payload"],
        priority=row["priority"],
        labels=to_labels(row["labels"]),
        timeout=row["timeout"],
        deadline=row["deadline"],
        retry=to_overrides(row["retry"]),
        request_id=row["request_id"],
        batch_id=row["batch_id"],
        state=JobState(row["state"]),
        attempt=row["attempt"],
        retries_used=row["retries_used"],
        seq=row["seq"],
        progress=to_progress(row["progress"]),
        result=row["result"],
        error=to_error(row["error"], row["stack_trace"]),
        worker_id=row["worker_id"],
        create_time=row["create_time"],
        due_time=row["due_time"],
        queue_time=row["queue_time"],
        start_time=row["start_time"],
        cancel_request_time=row["cancel_request_time"],
        end_time=row["end_time"],
        update_time=row["update_time"],
        correlation_id=row["correlation_id"],
    )


def to_event(row: Row) -> JobEvent:
    """A row that begins with EVENT_COLUMNS."""
    # Every event of every stream comes through here: columns by their order, and members of enums
    # from a dictionary, take a third of the time.
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
    return JobEvent(
        job_id=job_id,
        seq=seq,
        type=_EVENT_TYPES[kind],
        state=_STATES[state],
        attempt=attempt,
        time=time,
        job_type=job_type,
        queue=queue,
        labels=_EMPTY if labels == "{}" or labels is None else _labels.decode(labels),
        batch_id=batch_id,
        tenant=tenant,
        error=None if error is None else _error.decode(error),
        progress=None if progress is None else to_progress(progress),
        output=output,
        due_time=due_time,
        worker_id=worker_id,
        xid=xid,
        position=position,
    )


_EVENT_TYPES = {kind.value: kind for kind in EventType}
_STATES = {state.value: state for state in JobState}
_EMPTY: dict[str, str] = {}
_labels = msgspec.json.Decoder(dict[str, str])
_error = msgspec.json.Decoder(JobError)
_overrides = msgspec.json.Decoder(dict[str, Any])


def to_labels(labels: JsonText) -> dict[str, str]:
    """Labels from their JSON object."""
    return _EMPTY if labels == "{}" else _labels.decode(labels)


def to_error(error: JsonText | None, stack_trace: str | None = None) -> JobError | None:
    """An error from its JSON object and its stack trace."""
    if error is None:
        return None
    decoded = _error.decode(error)
    return decoded if stack_trace is None else replace(decoded, stack_trace=stack_trace)


def from_error(error: JobError | None) -> JsonText | None:
    """An error as a JSON object, without its stack trace."""
    if error is None:
        return None
    row = {"type": error.type, "message": error.message, "retryable": error.retryable}
    return msgspec.json.encode(row).decode()


class _ProgressRow(msgspec.Struct):
    """Progress as it is stored; the counters stay text."""

    fraction: float
    message: str
    counters: msgspec.Raw


_progress = msgspec.json.Decoder(_ProgressRow)


def to_progress(progress: JsonText | None) -> Progress | None:
    """Progress from its JSON object, cut where an older version stored too much."""
    if progress is None:
        return None
    row = _progress.decode(progress)
    message, counters = row.message, bytes(row.counters).decode()
    if len(progress) > MAX_PROGRESS_BYTES:
        message = message.encode()[:MAX_PROGRESS_MESSAGE_BYTES].decode(errors="ignore")
        counters = "{}" if len(counters) > MAX_PROGRESS_BYTES else counters
    return Progress(fraction=row.fraction, message=message, counters=counters)


def from_progress(progress: Progress | None) -> JsonText | None:
    """Progress as a JSON object."""
    if progress is None:
        return None
    row = _ProgressRow(
        fraction=progress.fraction,
        message=valid_text(progress.message),
        counters=msgspec.Raw(progress.counters.encode()),
    )
    return msgspec.json.encode(row).decode()


def to_overrides(retry: JsonText | None) -> RetryOverrides:
    """What a submitter said of retries, from its JSON object."""
    if retry is None:
        return _NO_OVERRIDES
    fields = _overrides.decode(retry)
    return RetryOverrides(**_typed(fields))


_NO_OVERRIDES = RetryOverrides()


def from_overrides(retry: RetryOverrides) -> JsonText | None:
    """What a submitter said of retries, as a JSON object; None when nothing was said."""
    if retry == _NO_OVERRIDES:
        return None
    return _retry_text(retry)


def to_policy(retry: JsonText) -> RetryPolicy:
    """A handler's policy from its JSON object."""
    return RetryPolicy(**_typed(_overrides.decode(retry)))


def from_policy(retry: RetryPolicy) -> JsonText:
    """A handler's policy as a JSON object."""
    return _retry_text(retry)


def _retry_text(retry: RetryOverrides | RetryPolicy) -> JsonText:
    fields = {
        name: value.total_seconds() if isinstance(value, timedelta) else value
        for name, value in said(retry).items()
    }
    return msgspec.json.encode(fields).decode()


def _typed(fields: dict[str, Any]) -> dict[str, Any]:
    # While services are upgraded one by one, a newer one may have said what is not known here yet.
    for name in fields.keys() - RetryOverrides.__dataclass_fields__.keys():
        del fields[name]
    for name in ("initial_backoff", "max_backoff"):
        if fields.get(name) is not None:
            fields[name] = timedelta(seconds=fields[name])
    if (types := fields.get("non_retryable_error_types")) is not None:
        fields["non_retryable_error_types"] = tuple(types)
    return fields


def column(items: Sequence[Any], name: str) -> list[Any]:
    """One attribute of each item, for an unnest()."""
    return [getattr(item, name) for item in items]

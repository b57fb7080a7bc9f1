"""Converts requests from protobuf to domain values.

This module checks only errors that are specific to protobuf: presence, enum numbers, and the
formats of times, durations and documents. The use cases check the rest.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1 import (
    data_pb2,
    job_pb2,
    job_service_pb2,
    monitor_service_pb2,
    subscription_service_pb2,
)
from headrace_core.domain.job import JobSpec
from headrace_core.domain.limits import FIRST_TIME, MAX_LABELS, TIME_RULE
from headrace_core.domain.query import JobFilter
from headrace_core.domain.retry import RetryOverrides
from headrace_core.domain.submission import Repeated
from headrace_core.domain.trace import read_trace_context
from headrace_gateway.api.documents import EMPTY_OBJECT, Payload
from headrace_gateway.api.job_rules import NO_OVERRIDES
from headrace_gateway.api.validation import MAX_FILTER_VALUES, Violations, job_filter
from headrace_gateway.calls.call import Call
from headrace_gateway.calls.request_ids import REQUEST_ID, is_request_id, new_request_id
from headrace_gateway.grpc.data import read_data
from headrace_gateway.grpc.encode import STATES, Encoding

_ENCODINGS: Final = frozenset(data_pb2.DataEncoding.values())
_VIEWS: Final = frozenset(job_pb2.JobView.values())
_NO_LABELS: Final[Mapping[str, str]] = {}
# The largest protobuf Duration, in seconds.
_MAX_DURATION_S: Final = 315_576_000_000
_STATES: Final = {number: state for state, number in STATES.items()}

WatchRequest: TypeAlias = (
    job_service_pb2.WatchJobRequest
    | job_service_pb2.WatchJobLogsRequest
    | job_service_pb2.WatchJobsRequest
    | job_service_pb2.SubmitAndWatchRequest
    | subscription_service_pb2.WatchSubscriptionRequest
    | monitor_service_pb2.WatchOverviewRequest
)


def read_encoding(encoding: Encoding, found: Violations) -> Encoding:
    """Return the encoding for documents in the response."""
    if encoding not in _ENCODINGS:
        found.note("data_encoding", "must be DATA_ENCODING_VALUE or DATA_ENCODING_JSON")
    return encoding


def read_view(view: job_pb2.JobView.ValueType, found: Violations, *, default_full: bool) -> bool:
    """Return whether the FULL view is requested."""
    if view not in _VIEWS:
        found.note("view", "must be JOB_VIEW_BASIC or JOB_VIEW_FULL")
    return default_full if view == job_pb2.JOB_VIEW_UNSPECIFIED else view == job_pb2.JOB_VIEW_FULL


def read_idle_interval(message: WatchRequest) -> float | None:
    """Return the longest time between two responses, in seconds; None if the field is absent."""
    if not message.HasField("idle_interval"):
        return None
    return seconds_of(message.idle_interval)


def seconds_of(duration: Duration) -> float:
    """Return a duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def read_job_filter(message: job_service_pb2.JobFilter, found: Violations) -> JobFilter:
    """Return the filter of a stream; after a violation, the result must not be used."""
    states = []
    # A request can contain millions of values, and `job_filter` rejects lists above the limit.
    for number, state_number in enumerate(message.states[: MAX_FILTER_VALUES + 1]):
        state = _STATES.get(state_number)
        if state is None:
            found.note(f"filter.states[{number}]", "must be a job state")
        else:
            states.append(state)
    return job_filter(
        queues=message.queues,
        types=message.types,
        states=states,
        labels=message.labels,
        batch_id=message.batch_id,
        job_ids=message.job_ids,
        found=found,
    )


def read_job(
    request: job_service_pb2.SubmitJobRequest | job_service_pb2.SubmitAndWatchRequest,
    found: Violations,
) -> tuple[JobSpec, Payload]:
    """Return the job to submit, and its payload.

    Raises:
        InvalidRequest: the request has no job.
    """
    if not request.HasField("job"):
        found.note("job", "is required")
        found.check()
    message = request.job
    payload = message.payload if message.HasField("payload") else None
    return _read_spec(message, "job", found), _read_payload(payload, "job.payload", found)


def read_entry_call(entry: job_service_pb2.SubmitJobsEntry, call: Call) -> Call:
    """Return the context of an entry: the call with what the entry overrides.

    Raises:
        InvalidRequest: the entry has no request, or the time is not a valid Duration.
    """
    found = Violations()
    if not entry.HasField("request"):
        found.note("request", "is required")
    left = None
    if entry.HasField("timeout"):
        left = read_duration(entry.timeout, "timeout", found)
    found.check()
    deadline = call.deadline
    if left is not None:
        deadline = time.monotonic() + left.total_seconds()
        if call.deadline is not None:
            deadline = min(deadline, call.deadline)
    correlation_id = entry.correlation_id
    if not is_request_id(correlation_id):
        # Independent jobs share an id only if the caller chose it.
        chosen = (REQUEST_ID, call.correlation_id) in call.metadata
        correlation_id = call.correlation_id if chosen else new_request_id()
    trace = call.span_context
    if entry.traceparent:
        headers = (("traceparent", entry.traceparent), ("tracestate", entry.tracestate))
        trace = read_trace_context(headers) or trace
    return replace(call, deadline=deadline, correlation_id=correlation_id, span_context=trace)


def read_jobs(
    request: job_service_pb2.BatchSubmitJobsRequest, found: Violations
) -> tuple[Repeated[JobSpec], list[Payload]]:
    """Return the jobs to submit, and their payloads, which are removed from the request.

    Jobs that differ only in their payloads share a spec, which is decoded once.
    """
    specs: list[JobSpec] = []
    indexes: list[int] = []
    payloads: list[Payload] = []
    known: dict[bytes, int] = {}
    for number, message in enumerate(request.jobs):
        data = message.payload if message.HasField("payload") else None
        message.ClearField("payload")
        # Labels may be in any order, so some equal specs are decoded several times.
        rest = message.SerializeToString()
        index = known.get(rest)
        if index is None:
            before, index = len(found), len(specs)
            specs.append(_read_spec(message, f"jobs[{number}]", found))
            # An invalid spec is decoded again, because each job reports its own violations.
            if len(found) == before:
                known[rest] = index
        indexes.append(index)
        payloads.append(_read_payload(data, f"jobs[{number}].payload", found))
    return Repeated(specs, indexes), payloads


def _read_spec(message: job_pb2.JobSpec, path: str, found: Violations) -> JobSpec:
    schedule_time = deadline = timeout = None
    if message.HasField("schedule_time"):
        schedule_time = read_time(message.schedule_time, f"{path}.schedule_time", found)
    if message.HasField("deadline"):
        deadline = read_time(message.deadline, f"{path}.deadline", found)
    if message.HasField("timeout"):
        timeout = read_duration(message.timeout, f"{path}.timeout", found)
    return JobSpec(
        type=message.type,
        queue=message.queue,
        priority=message.priority,
        labels=_read_labels(message.labels),
        schedule_time=schedule_time,
        timeout=timeout,
        deadline=deadline,
        retry=(
            _read_retry_policy(message.retry_policy, f"{path}.retry_policy", found)
            if message.HasField("retry_policy")
            else NO_OVERRIDES
        ),
    )


def _read_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    if not labels:
        return _NO_LABELS
    # A request can contain a million labels; `check_spec` rejects them, so they are not copied.
    return dict(labels) if len(labels) <= MAX_LABELS else labels


def _read_payload(data: data_pb2.Data | None, path: str, found: Violations) -> Payload:
    if data is None:
        return EMPTY_OBJECT
    try:
        return read_data(data)
    except ValueError as error:
        found.note(path, str(error))
        return None


def _read_retry_policy(
    message: job_pb2.RetryPolicy, path: str, found: Violations
) -> RetryOverrides:
    initial = longest = None
    if message.HasField("initial_backoff"):
        initial = read_duration(message.initial_backoff, f"{path}.initial_backoff", found)
    if message.HasField("max_backoff"):
        longest = read_duration(message.max_backoff, f"{path}.max_backoff", found)
    return RetryOverrides(
        max_attempts=message.max_attempts if message.HasField("max_attempts") else None,
        initial_backoff=initial,
        max_backoff=longest,
        multiplier=message.multiplier if message.HasField("multiplier") else None,
        jitter=message.jitter if message.HasField("jitter") else None,
        non_retryable_error_types=tuple(message.non_retryable_error_types) or None,
    )


def read_time(message: Timestamp, path: str, found: Violations) -> datetime | None:
    """Return a time; None after a violation."""
    if 0 <= message.nanos < 1_000_000_000:
        with suppress(OverflowError):
            # Rounded down, so the last valid nanosecond stays below LAST_TIME.
            return FIRST_TIME + timedelta(
                seconds=message.seconds, microseconds=message.nanos // 1000
            )
    found.note(path, TIME_RULE)
    return None


def read_duration(message: Duration, path: str, found: Violations) -> timedelta | None:
    seconds, nanos = message.seconds, message.nanos
    if (
        abs(seconds) > _MAX_DURATION_S
        or abs(nanos) >= 1_000_000_000
        or (seconds > 0 > nanos)
        or (seconds < 0 < nanos)
    ):
        found.note(
            path,
            f"must be a Duration: seconds within ±{_MAX_DURATION_S:,} and nanos within "
            "±999,999,999, both of the same sign",
        )
        return None
    return timedelta(seconds=seconds, microseconds=nanos // 1000)

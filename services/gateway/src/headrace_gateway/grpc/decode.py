"""Requests, from protobuf to the values of the domain.

Only what protobuf alone can get wrong is checked here: presence, enum numbers, and the forms of
times, durations and documents. The use cases check the rest.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from headrace.v1 import data_pb2, job_pb2, job_service_pb2, subscription_service_pb2
from headrace_core.domain.query import JobFilter
from headrace_gateway.api.validation import Violations, job_filter
from headrace_gateway.grpc.encode import STATES, Encoding

_ENCODINGS: Final = frozenset(data_pb2.DataEncoding.values())
_VIEWS: Final = frozenset(job_pb2.JobView.values())
_STATES: Final = {number: state for state, number in STATES.items()}

WatchRequest: TypeAlias = (
    job_service_pb2.WatchJobRequest
    | job_service_pb2.WatchJobsRequest
    | job_service_pb2.SubmitAndWatchRequest
    | subscription_service_pb2.WatchSubscriptionRequest
)


def read_encoding(encoding: Encoding, found: Violations) -> Encoding:
    """Return the form of documents in the response."""
    if encoding not in _ENCODINGS:
        found.note("data_encoding", "must be DATA_ENCODING_VALUE or DATA_ENCODING_JSON")
    return encoding


def read_view(view: job_pb2.JobView.ValueType, found: Violations, *, default_full: bool) -> bool:
    """Return whether the FULL view is requested."""
    if view not in _VIEWS:
        found.note("view", "must be JOB_VIEW_BASIC or JOB_VIEW_FULL")
    return default_full if view == job_pb2.JOB_VIEW_UNSPECIFIED else view == job_pb2.JOB_VIEW_FULL


def read_idle_interval(message: WatchRequest) -> float | None:
    """Return the longest time between two responses, in seconds; None if it is absent."""
    if not message.HasField("idle_interval"):
        return None
    return message.idle_interval.seconds + message.idle_interval.nanos / 1e9


def read_job_filter(message: job_service_pb2.JobFilter, found: Violations) -> JobFilter:
    """Return the filter of a stream; with violations the result is meaningless."""
    states = []
    for number, state_number in enumerate(message.states):
        state = _STATES.get(state_number)
        if state is None:
            found.note(f"filter.states[{number}]", "must be a state of a job")
        else:
            states.append(state)
    return job_filter(
        queues=message.queues,
        types=message.types,
        states=states,
        labels=dict(message.labels),
        batch_id=message.batch_id,
        job_ids=message.job_ids,
        found=found,
    )

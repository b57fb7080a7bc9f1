"""The fields that requests have in common, as the domain's types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final, TypeAlias
from uuid import UUID

import msgspec

from headrace.v1 import data_pb2, job_pb2, job_service_pb2, subscription_service_pb2
from headrace_core.domain.errors import InvalidRequest, Violation
from headrace_core.domain.ids import BatchId, JobId
from headrace_core.domain.query import JobFilter
from headrace_core.domain.times import MAX_DURATION
from headrace_gateway.api.names import (
    LABEL_KEY_RULE,
    LABEL_VALUE_RULE,
    NAME_RULE,
    is_label_key,
    is_label_value,
    is_name,
    parse_id,
)
from headrace_gateway.grpc.convert import STATES

MAX_REQUEST_ID: Final = 128
DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000
MAX_FILTER_JOBS: Final = 10_000
# Nobody has as many queues, and a stream keeps its filter for as long as it lives.
MAX_FILTER_VALUES: Final = 1000
MAX_CONSUMER: Final = 128
# In seconds. A mark costs little, but many streams send marks.
MIN_IDLE_INTERVAL: Final = 1
MAX_IDLE_INTERVAL: Final = 60

_ENCODINGS = frozenset(data_pb2.DataEncoding.values())
_VIEWS = frozenset(job_pb2.JobView.values())
_STATES = {number: state for state, number in STATES.items()}


WatchRequest: TypeAlias = (
    job_service_pb2.WatchJobRequest
    | job_service_pb2.WatchJobsRequest
    | job_service_pb2.SubmitAndWatchRequest
    | subscription_service_pb2.WatchSubscriptionRequest
)


class Violations(list[Violation]):
    """What was found so far."""

    def note(self, field: str, description: str) -> None:
        """Adds a violation."""
        self.append(Violation(field, description))

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """What the block finds invalid counts among the others; alone it is raised as it is."""
        try:
            yield
        except InvalidRequest as error:
            if not self:
                raise
            self.extend(error.violations)

    def check(self) -> None:
        """Raises InvalidRequest when there is any."""
        if self:
            raise InvalidRequest(self)


def read_request_id(request_id: str, found: Violations) -> str | None:
    """An idempotency key; None when it is empty."""
    _check_printable("request_id", request_id, MAX_REQUEST_ID, found)
    return request_id or None


def read_call_deadline(
    use: bool, time_remaining: float | None, found: Violations
) -> timedelta | None:
    """What is left of a call whose deadline becomes that of its jobs; None when it does not.

    Args:
        use: whether that was asked for.
        time_remaining: what is left, in seconds; None when the call has no deadline.
        found: gets a violation when there is none to use.
    """
    if not use:
        return None
    if time_remaining is None:
        found.note("use_call_deadline", "needs a call with a deadline")
        return None
    # Limited before the conversion: gRPC allows deadlines that no timedelta holds.
    return timedelta(seconds=min(time_remaining, MAX_DURATION.total_seconds()))


def read_job_id(job_id: str, found: Violations, field: str = "job_id") -> JobId:
    """A job's id; with a violation the result means nothing."""
    return JobId(_uuid(job_id, field, "job", found))


def read_page_size(page_size: int, found: Violations, *, default: int = DEFAULT_PAGE_SIZE) -> int:
    """How many items a page has at most."""
    if page_size < 0:
        found.note("page_size", "must not be negative; 0 is the default")
    return min(page_size, MAX_PAGE_SIZE) or default


def read_after_seq(after_seq: int, found: Violations) -> int:
    """The number of an event that was seen."""
    # The store numbers with 32 bits; a larger number is behind every event anyway.
    if after_seq < 0:
        found.note("after_seq", "must not be negative; 0 is before the first event")
    return min(after_seq, 2**31 - 1)


def read_idle_interval(message: WatchRequest, found: Violations) -> float | None:
    """The longest time without a response of a stream, in seconds; None when it was not given."""
    if not message.HasField("idle_interval"):
        return None
    interval = message.idle_interval.seconds + message.idle_interval.nanos / 1e9
    if not MIN_IDLE_INTERVAL <= interval <= MAX_IDLE_INTERVAL:
        found.note("idle_interval", f"must be {MIN_IDLE_INTERVAL} s to {MAX_IDLE_INTERVAL} s")
    return interval


def read_encoding(
    encoding: data_pb2.DataEncoding.ValueType, found: Violations
) -> data_pb2.DataEncoding.ValueType:
    """The form of documents in the response."""
    if encoding not in _ENCODINGS:
        found.note("data_encoding", "must be DATA_ENCODING_VALUE or DATA_ENCODING_JSON")
    return encoding


def read_view(view: job_pb2.JobView.ValueType, found: Violations, *, default_full: bool) -> bool:
    """Whether the FULL view is asked for."""
    if view not in _VIEWS:
        found.note("view", "must be JOB_VIEW_BASIC or JOB_VIEW_FULL")
    return default_full if view == job_pb2.JOB_VIEW_UNSPECIFIED else view == job_pb2.JOB_VIEW_FULL


def read_job_filter(message: job_service_pb2.JobFilter, found: Violations) -> JobFilter:
    """Which jobs to follow."""
    if len(message.job_ids) > MAX_FILTER_JOBS:
        found.note("filter.job_ids", f"must hold at most {MAX_FILTER_JOBS} ids")
        return JobFilter()
    for name in ("queues", "types", "states", "labels"):
        if len(getattr(message, name)) > MAX_FILTER_VALUES:
            found.note(f"filter.{name}", f"must hold at most {MAX_FILTER_VALUES} values")
            return JobFilter()
    for field, names in (("queues", message.queues), ("types", message.types)):
        for number, name in enumerate(names):
            if not is_name(name):
                found.note(f"filter.{field}[{number}]", NAME_RULE)
    for key, value in message.labels.items():
        check_label(key, value, "filter.labels", found)
    states = set()
    for number, number_of_state in enumerate(message.states):
        state = _STATES.get(number_of_state)
        if state is None:
            found.note(f"filter.states[{number}]", "must be a state of a job")
        else:
            states.add(state)
    return JobFilter(
        queues=frozenset(message.queues),
        types=frozenset(message.types),
        states=frozenset(states),
        labels=dict(message.labels),
        batch_id=(
            BatchId(_uuid(message.batch_id, "filter.batch_id", "batch", found))
            if message.batch_id
            else None
        ),
        job_ids=frozenset(
            read_job_id(job_id, found, f"filter.job_ids[{number}]")
            for number, job_id in enumerate(message.job_ids)
        ),
    )


def check_label(key: str, value: str, path: str, found: Violations) -> None:
    """Notes what is wrong with a label of the map at `path`."""
    entry = f"{path}[{msgspec.json.encode(key[:100]).decode()}]"
    if not is_label_key(key):
        found.note(entry, f"its key {LABEL_KEY_RULE}")
    if not is_label_value(value):
        found.note(entry, f"its value {LABEL_VALUE_RULE}")


def read_consumer(consumer: str, found: Violations) -> str:
    """Who watches; empty for a consumer of the call's own."""
    _check_printable("consumer", consumer, MAX_CONSUMER, found)
    return consumer


def _check_printable(field: str, text: str, maximum: int, found: Violations) -> None:
    if text and (len(text) > maximum or not text.isprintable()):
        found.note(field, f"must be 1 to {maximum} printable characters, or empty")


def _uuid(text: str, path: str, kind: str, found: Violations) -> UUID:
    with suppress(ValueError):
        return parse_id(text)
    found.note(path, f"must be the id of a {kind}, a UUID as 0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15")
    return UUID(int=0)

"""Rules for the values in a request.

All transports use the field paths of the API: `job.retry_policy.jitter`, `filter.types[2]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from headrace_core.domain.access import MAX_PRINCIPAL_NAME
from headrace_core.domain.errors import InvalidRequest, Violation
from headrace_core.domain.ids import BatchId, JobId, parse_id
from headrace_core.domain.job_log import LOG_START, LogPosition
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.limits import (
    LABEL_KEY_RULE,
    LABEL_VALUE_RULE,
    MAX_DURATION,
    MAX_REASON,
    MAX_REQUEST_ID,
    NAME_RULE,
    is_label_key,
    is_label_value,
    is_name,
)
from headrace_core.domain.query import JobFilter
from headrace_core.domain.repeatable import MIN_SECRET_REQUEST_ID
from headrace_core.domain.user import password_problem
from headrace_gateway.calls.call import Call

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000
MAX_FILTER_JOBS: Final = 10_000
# A stream holds its filter in memory until the stream ends.
MAX_FILTER_VALUES: Final = 1000
MAX_CONSUMER_LENGTH: Final = 128
# Limits of the idle interval, in seconds. One mark is cheap, but many streams send them.
MIN_IDLE_INTERVAL: Final = 1
MAX_IDLE_INTERVAL: Final = 60

# Event numbers have 32 bits, so a larger number is after every event.
_MAX_SEQ: Final = 2**31 - 1
_NO_ID: Final = UUID(int=0)


class Violations(list[Violation]):
    """The violations found in a request so far."""

    def note(self, field: str, description: str) -> None:
        """Add a violation."""
        self.append(Violation(field, description))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add the violations of an InvalidRequest; re-raise it if it is the only error so far."""
        try:
            yield
        except InvalidRequest as error:
            if not self:
                raise
            self.extend(error.violations)

    def check(self) -> None:
        """Raise InvalidRequest if there are violations."""
        if self:
            raise InvalidRequest(self)


def parse_job_id(text: str, found: Violations, field: str = "job_id") -> JobId:
    """Parse a job id; after a violation the result is a placeholder."""
    return JobId(_parse_id(text, field, "job", found))


def parse_batch_id(text: str, found: Violations, field: str = "batch_id") -> BatchId:
    """Return a batch id; after a violation, the id of no batch."""
    return BatchId(_parse_id(text, field, "batch", found))


def check_request_id(request_id: str | None, found: Violations) -> None:
    """Check an idempotency key."""
    _check_printable("request_id", request_id, MAX_REQUEST_ID, found)


def check_secret_request_id(request_id: str, found: Violations) -> None:
    """Check the idempotency key of a request that creates a secret; empty for none."""
    if not request_id:
        return
    check_request_id(request_id, found)
    if len(request_id) < MIN_SECRET_REQUEST_ID:
        found.note(
            "request_id",
            f"has {len(request_id)} characters; use {MIN_SECRET_REQUEST_ID} or more, such as a "
            "random UUID",
        )


def call_deadline(call: Call, use: bool, found: Violations) -> timedelta | None:
    """Return the call's remaining time if its deadline applies to its jobs; None otherwise.

    Args:
        call: the context of the request.
        use: True to apply the call's deadline to its jobs.
        found: receives a violation if the call has no deadline.
    """
    if not use:
        return None
    left = call.time_remaining()
    if left is None:
        found.note("use_call_deadline", "requires a call with a deadline")
        return None
    # Limit before the conversion: a timedelta cannot represent every deadline.
    return timedelta(seconds=min(left, MAX_DURATION.total_seconds()))


def check_principal(name: str, found: Violations) -> None:
    """Check the name of a principal."""
    if not name:
        found.note("principal", "is required")
    _check_printable("principal", name, MAX_PRINCIPAL_NAME, found)


def check_new_password(field: str, password: str, found: Violations, *, user: str) -> None:
    """Check a password that a caller chose for a user."""
    problem = password_problem(password, user=user)
    if problem is not None:
        found.note(field, problem)


def check_reason(reason: str, found: Violations) -> None:
    """Check the reason of a cancellation or a requeue; it can be empty."""
    _check_printable("reason", reason, MAX_REASON, found)


def check_consumer(consumer: str, found: Violations) -> None:
    """Check a consumer name; an anonymous consumer has an empty name."""
    _check_printable("consumer", consumer, MAX_CONSUMER_LENGTH, found)


def check_subscription_name(name: str, found: Violations) -> None:
    """Check a subscription name."""
    if not is_name(name):
        found.note("name", NAME_RULE)


def check_idle_interval(seconds: float | None, found: Violations) -> None:
    """Check the longest time between two responses of a stream, in seconds."""
    if seconds is not None and not MIN_IDLE_INTERVAL <= seconds <= MAX_IDLE_INTERVAL:
        found.note("idle_interval", f"must be {MIN_IDLE_INTERVAL} s to {MAX_IDLE_INTERVAL} s")


def page_limit(size: int, found: Violations, *, default: int = DEFAULT_PAGE_SIZE) -> int:
    """Return the maximum number of items for a requested page size; 0 selects the default."""
    if size < 0:
        found.note("page_size", "must not be negative; 0 selects the default")
    return min(size, MAX_PAGE_SIZE) or default


def limit_after_seq(after_seq: int, found: Violations) -> int:
    """Return `after_seq`, limited to the largest event number."""
    if after_seq < 0:
        found.note("after_seq", "must not be negative; 0 is before the first event")
    return min(after_seq, _MAX_SEQ)


def limit_after_position(after: int, found: Violations) -> LogPosition:
    """Return the position `after_position` in the log of a job, limited to the largest one."""
    if after < 0:
        found.note("after_position", "must not be negative; 0 is before the first line")
        return LOG_START
    position = LogPosition.parse(after)
    return position._replace(attempt=min(position.attempt, _MAX_SEQ))


def job_filter(
    *,
    queues: Sequence[str],
    types: Sequence[str],
    states: Sequence[JobState],
    labels: Mapping[str, str],
    batch_id: str,
    job_ids: Sequence[str],
    found: Violations,
) -> JobFilter:
    """Return the filter of a stream; after a violation the result is a placeholder.

    Args:
        queues, types, states, labels: as in `JobFilter`.
        batch_id: a batch id, or empty.
        job_ids: job ids.
        found: receives the violations.
    """
    if len(job_ids) > MAX_FILTER_JOBS:
        found.note("filter.job_ids", f"must contain at most {MAX_FILTER_JOBS} ids")
        return JobFilter()
    limited = {"queues": queues, "types": types, "states": states, "labels": labels}
    for field, values in limited.items():
        if len(values) > MAX_FILTER_VALUES:
            found.note(f"filter.{field}", f"must contain at most {MAX_FILTER_VALUES} values")
            return JobFilter()
    for field, names in (("queues", queues), ("types", types)):
        for number, name in enumerate(names):
            if not is_name(name):
                found.note(f"filter.{field}[{number}]", NAME_RULE)
    check_labels(labels, "filter.labels", found)
    batch = parse_batch_id(batch_id, found, "filter.batch_id") if batch_id else None
    return JobFilter(
        queues=frozenset(queues),
        types=frozenset(types),
        states=frozenset(states),
        labels=dict(labels),
        batch_id=batch,
        job_ids=frozenset(
            parse_job_id(job_id, found, f"filter.job_ids[{number}]")
            for number, job_id in enumerate(job_ids)
        ),
    )


def check_labels(labels: Mapping[str, str], path: str, found: Violations) -> None:
    """Check the labels at `path`."""
    for key, value in labels.items():
        if not is_label_key(key):
            found.note(_label_path(path, key), f"its key {LABEL_KEY_RULE}")
        if not is_label_value(value):
            found.note(_label_path(path, key), f"its value {LABEL_VALUE_RULE}")


def _label_path(path: str, key: str) -> str:
    return f"{path}[{msgspec.json.encode(key[:100]).decode()}]"


def _check_printable(field: str, text: str | None, maximum: int, found: Violations) -> None:
    if text and (len(text) > maximum or not text.isprintable()):
        found.note(field, f"must be 1 to {maximum} printable characters, or empty")


def _parse_id(text: str, field: str, kind: str, found: Violations) -> UUID:
    try:
        return parse_id(text)
    except ValueError:
        found.note(
            field,
            f"must be a {kind} id, a UUID such as 0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15",
        )
        return _NO_ID

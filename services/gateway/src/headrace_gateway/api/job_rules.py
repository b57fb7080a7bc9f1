"""The rules for submitted jobs, checked on domain values."""

from __future__ import annotations

from collections.abc import Sized
from datetime import timedelta
from typing import Final

from headrace_core.domain.errors import LimitExceeded
from headrace_core.domain.job import JobSpec
from headrace_core.domain.limits import (
    ATTEMPTS,
    ERROR_TYPES_RULE,
    FIRST_TIME,
    JITTER,
    LAST_TIME,
    MAX_BACKOFF,
    MAX_ERROR_TYPES,
    MAX_PRIORITY,
    MAX_TIMEOUT,
    MIN_PRIORITY,
    MULTIPLIER,
    NAME_RULE,
    TIME_RULE,
    is_error_type,
    is_name,
)
from headrace_core.domain.retry import RetryOverrides
from headrace_core.runtime.settings import Settings
from headrace_gateway.api.documents import Document, check_depth, parse_json
from headrace_gateway.api.validation import Violations, check_labels

# Jobs without overrides share this value, so it is not checked.
NO_OVERRIDES: Final = RetryOverrides()

_ZERO: Final = timedelta()


def check_spec(spec: JobSpec, path: str, found: Violations, settings: Settings) -> None:
    """Check the job at `path`, except its payload.

    Raises:
        LimitExceeded: the job has too many labels.
    """
    if not is_name(spec.type):
        found.note(f"{path}.type", NAME_RULE)
    if spec.queue and not is_name(spec.queue):
        found.note(f"{path}.queue", f"{NAME_RULE}, or empty")
    if not MIN_PRIORITY <= spec.priority <= MAX_PRIORITY:
        found.note(f"{path}.priority", f"must be {MIN_PRIORITY} to {MAX_PRIORITY}")
    schedule_time, deadline, timeout = spec.schedule_time, spec.deadline, spec.timeout
    if schedule_time is not None and not FIRST_TIME <= schedule_time <= LAST_TIME:
        found.note(f"{path}.schedule_time", TIME_RULE)
        schedule_time = None
    if deadline is not None:
        if not FIRST_TIME <= deadline <= LAST_TIME:
            found.note(f"{path}.deadline", TIME_RULE)
        elif schedule_time is not None and deadline <= schedule_time:
            found.note(f"{path}.deadline", "must be after schedule_time")
    if timeout is not None and not _ZERO < timeout <= MAX_TIMEOUT:
        found.note(f"{path}.timeout", f"must be positive and at most {MAX_TIMEOUT.days} days")
    if spec.labels:
        if len(spec.labels) > settings.max_labels:
            raise LimitExceeded(
                f"{path}.labels",
                limit="HEADRACE_MAX_LABELS",
                maximum=settings.max_labels,
                actual=len(spec.labels),
                unit="labels",
            )
        check_labels(spec.labels, f"{path}.labels", found)
    if spec.retry is not NO_OVERRIDES:
        _check_retry(spec.retry, f"{path}.retry_policy", found)


def check_payload(
    payload: bytes | Document, field: str, found: Violations, settings: Settings
) -> Document | None:
    """Parse the payload at `field`; if it is not JSON, note a violation and return None.

    Raises:
        LimitExceeded: the payload is too large or nested too deeply.
    """
    if isinstance(payload, Document):
        check_depth(payload.content, field)
        _check_size(len(payload.text.encode()), field, settings)
        return payload
    # Check the size first, so an oversized payload is never parsed.
    _check_size(len(payload), field, settings)
    try:
        return parse_json(payload, field)
    except ValueError as error:
        found.note(field, str(error))
        return None


def check_batch_size(jobs: Sized, found: Violations, settings: Settings) -> None:
    """Check the number of jobs in a batch.

    Raises:
        LimitExceeded: the batch has too many jobs.
    """
    check_count(
        jobs, "jobs", found, limit="HEADRACE_MAX_BATCH_JOBS", maximum=settings.max_batch_jobs
    )


def check_count(items: Sized, field: str, found: Violations, *, limit: str, maximum: int) -> None:
    """Check that `field`, which names its items, has 1 to `maximum` of them.

    Args:
        items: the items.
        field: the field path.
        found: receives a violation if there are none.
        limit: the name of the limit.
        maximum: the limit.

    Raises:
        LimitExceeded: there are too many items.
    """
    if not len(items):
        found.note(field, f"must contain 1 to {maximum} {field}")
    if len(items) > maximum:
        raise LimitExceeded(field, limit=limit, maximum=maximum, actual=len(items), unit=field)


def _check_size(size: int, field: str, settings: Settings) -> None:
    if size > settings.max_payload_bytes:
        raise LimitExceeded(
            field,
            limit="HEADRACE_MAX_PAYLOAD_BYTES",
            maximum=settings.max_payload_bytes,
            actual=size,
            unit="bytes",
        )


def _check_retry(retry: RetryOverrides, path: str, found: Violations) -> None:
    initial, longest = retry.initial_backoff, retry.max_backoff
    for name, backoff in (("initial_backoff", initial), ("max_backoff", longest)):
        if backoff is not None and not _ZERO <= backoff <= MAX_BACKOFF:
            found.note(f"{path}.{name}", f"must be 0 to {MAX_BACKOFF.days} days")
    if initial is not None and longest is not None and longest < initial:
        found.note(f"{path}.max_backoff", "must not be shorter than initial_backoff")
    types = retry.non_retryable_error_types
    if types and (len(types) > MAX_ERROR_TYPES or not all(map(is_error_type, types))):
        found.note(f"{path}.non_retryable_error_types", f"must be {ERROR_TYPES_RULE}")
    for name, value, bounds in (
        ("max_attempts", retry.max_attempts, ATTEMPTS),
        ("multiplier", retry.multiplier, MULTIPLIER),
        ("jitter", retry.jitter, JITTER),
    ):
        if value is not None and not bounds.contains(value):
            found.note(f"{path}.{name}", f"must be {bounds}")

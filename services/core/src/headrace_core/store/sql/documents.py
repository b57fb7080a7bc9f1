"""Converts documents and times to and from their stored form in rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

import msgspec

from headrace_core.domain.job import JobError, JsonText, Progress, replace_surrogates
from headrace_core.domain.limits import (
    ATTEMPTS,
    JITTER,
    MAX_DURATION,
    MAX_PROGRESS_MESSAGE_BYTES,
    MULTIPLIER,
    Bounds,
)
from headrace_core.domain.retry import RetryOverrides, RetryPolicy, set_fields

_T = TypeVar("_T")
_Interval = TypeVar("_Interval", timedelta, timedelta | None)

# Stored progress above this size, in bytes, is reduced when it is read. A worker can write at most
# two thirds of it. An older version had no limit.
MAX_PROGRESS_BYTES = 65_536

NO_LABELS: Final[dict[str, str]] = {}
NO_OVERRIDES: Final = RetryOverrides()


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


_Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_DURATION.total_seconds())]
LABELS = msgspec.json.Decoder(dict[str, str])
ERROR = msgspec.json.Decoder(JobError)


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
    return NO_LABELS if labels == "{}" else LABELS.decode(labels)


def from_labels(labels: Mapping[str, str]) -> JsonText:
    """Convert labels to their JSON object."""
    return msgspec.json.encode(labels).decode() if labels else "{}"


def to_error(error: JsonText | None, stack_trace: str | None = None) -> JobError | None:
    """Decode an error from its JSON object and its stack trace."""
    if error is None:
        return None
    decoded = ERROR.decode(error)
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
        return NO_OVERRIDES
    return RetryOverrides(**_present_values(_overrides.decode(retry)))


def from_overrides(retry: RetryOverrides) -> JsonText | None:
    """Encode a submitter's retry overrides as a JSON object; None if there are no overrides."""
    if retry == NO_OVERRIDES:
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

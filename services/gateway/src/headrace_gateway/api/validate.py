"""The jobs that a client submits, as the domain's types, with every violation at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1 import data_pb2, job_pb2
from headrace_core.domain.errors import LimitExceeded
from headrace_core.domain.job import MAX_PRIORITY, MIN_PRIORITY, JobSpec
from headrace_core.domain.retry import (
    ERROR_TYPES_RULE,
    MAX_ERROR_TYPES,
    RetryOverrides,
    is_error_type,
)
from headrace_core.domain.submission import Repeated
from headrace_core.domain.times import FIRST_TIME, LAST_TIME, TIME_RULE
from headrace_core.runtime.settings import Settings
from headrace_gateway.api.names import NAME_RULE, is_name
from headrace_gateway.api.validation import Violations, check_labels
from headrace_gateway.calls.nesting import TooDeep, too_deep
from headrace_gateway.grpc.document import EMPTY, Document, read_data, read_json

MAX_TIMEOUT: Final = timedelta(days=7)
MAX_BACKOFF: Final = timedelta(days=7)

_NO_RETRY = RetryOverrides()
_NO_LABELS: Final[Mapping[str, str]] = {}

# As protobuf's Timestamp counts, from FIRST_TIME.
_LAST_SECOND = (LAST_TIME - FIRST_TIME) // timedelta(seconds=1)
# The range that protobuf defines for its Duration.
_LONGEST_SECONDS = 315_576_000_000

N = TypeVar("N", int, float)


class Submissions(NamedTuple):
    """The jobs of a request.

    Attributes:
        specs: the specs. Jobs that differ in their payloads alone share an item.
        payloads: the payload of each job; None if it is not a JSON document, which is a violation.
        paths: the path of each job in the request.
    """

    specs: Repeated[JobSpec]
    payloads: Sequence[Document | None]
    paths: Sequence[str]


def read_spec(
    message: job_pb2.JobSpec, path: str, found: Violations, settings: Settings
) -> Submissions:
    """Read a job to submit, and add its violations to `found`.

    Args:
        message: the job.
        path: its path in the request, such as `job`.
        found: receives the violations. With any, the result must not be used.
        settings: the limits.

    Raises:
        LimitExceeded: the payload is too large or too deep, or there are too many labels.
    """
    data = message.payload if message.HasField("payload") else None
    payload = _payload(data, path, found, settings)
    spec = _read(message, path, found, settings)
    return Submissions(Repeated([spec], [0]), [payload], [path])


def read_specs(
    messages: Iterable[job_pb2.JobSpec], path: str, found: Violations, settings: Settings
) -> Submissions:
    """Read many jobs to submit, as `read_spec` reads one; the path of job 3 is `path[3]`.

    Equal specs are read once. The payloads are removed from the messages.
    """
    known: dict[bytes, int] = {}
    specs: list[JobSpec] = []
    places: list[int] = []
    payloads: list[Document | None] = []
    paths: list[str] = []
    for number, message in enumerate(messages):
        job_path = f"{path}[{number}]"
        data = message.payload if message.HasField("payload") else None
        message.ClearField("payload")
        payloads.append(_payload(data, job_path, found, settings))
        # Labels have no order, so equal specs may be read more than once.
        rest = message.SerializeToString()
        place = known.get(rest)
        if place is None:
            place = len(specs)
            specs.append(_read(message, job_path, found, settings))
            # A spec with violations is read again, because each job reports its own.
            if not found:
                known[rest] = place
        places.append(place)
        paths.append(job_path)
    return Submissions(Repeated(specs, places), payloads, paths)


def _read(message: job_pb2.JobSpec, path: str, found: Violations, settings: Settings) -> JobSpec:
    if not is_name(message.type):
        found.note(f"{path}.type", NAME_RULE)
    if message.queue and not is_name(message.queue):
        found.note(f"{path}.queue", f"{NAME_RULE}, or empty")
    if not MIN_PRIORITY <= message.priority <= MAX_PRIORITY:
        found.note(f"{path}.priority", f"must be {MIN_PRIORITY} to {MAX_PRIORITY}")
    schedule_time = deadline = timeout = None
    if message.HasField("schedule_time"):
        schedule_time = _time(message.schedule_time, f"{path}.schedule_time", found)
    if message.HasField("deadline"):
        deadline = _time(message.deadline, f"{path}.deadline", found)
        if deadline and schedule_time and deadline <= schedule_time:
            found.note(f"{path}.deadline", "must be after schedule_time")
    if message.HasField("timeout"):
        timeout = _duration(message.timeout, f"{path}.timeout", found)
        if timeout is not None and not timedelta() < timeout <= MAX_TIMEOUT:
            found.note(f"{path}.timeout", f"must be positive and at most {MAX_TIMEOUT.days} days")
    return JobSpec(
        type=message.type,
        queue=message.queue,
        priority=message.priority,
        labels=_labels(message.labels, f"{path}.labels", found, settings),
        schedule_time=schedule_time,
        timeout=timeout,
        deadline=deadline,
        retry=(
            _retry(message.retry_policy, f"{path}.retry_policy", found)
            if message.HasField("retry_policy")
            else _NO_RETRY
        ),
    )


def check_subscription_name(name: str, found: Violations) -> None:
    """Notes a violation when no subscription can be called so."""
    if not is_name(name):
        found.note("name", NAME_RULE)


def check_batch_size(jobs: Sequence[Any], found: Violations, settings: Settings) -> None:
    """Raises LimitExceeded when a batch is too long; an empty one is a violation."""
    if not jobs:
        found.note("jobs", f"must hold 1 to {settings.max_batch_jobs} jobs")
    if len(jobs) > settings.max_batch_jobs:
        raise LimitExceeded(
            "jobs",
            limit="HEADRACE_MAX_BATCH_JOBS",
            maximum=settings.max_batch_jobs,
            actual=len(jobs),
            unit="jobs",
        )


def _payload(
    data: data_pb2.Data | None, path: str, found: Violations, settings: Settings
) -> Document | None:
    """The payload of the job at `path`."""
    if data is None:
        return EMPTY
    text = data.json
    # Before it is decoded, so that what is too large costs nothing.
    if len(text) > settings.max_payload_bytes:
        raise _too_large(len(text), path, settings)
    try:
        document = read_json(text) if text else read_data(data)
    except TooDeep as error:
        raise too_deep(f"{path}.payload", error.depth) from None
    except ValueError as error:
        found.note(f"{path}.payload", str(error))
        return None
    if not text:
        size = len(document.text.encode())
        if size > settings.max_payload_bytes:
            raise _too_large(size, path, settings)
    return document


def _too_large(size: int, path: str, settings: Settings) -> LimitExceeded:
    return LimitExceeded(
        f"{path}.payload",
        limit="HEADRACE_MAX_PAYLOAD_BYTES",
        maximum=settings.max_payload_bytes,
        actual=size,
        unit="bytes",
    )


def _labels(
    labels: Mapping[str, str], path: str, found: Violations, settings: Settings
) -> Mapping[str, str]:
    if not labels:
        return _NO_LABELS
    if len(labels) > settings.max_labels:
        raise LimitExceeded(
            path,
            limit="HEADRACE_MAX_LABELS",
            maximum=settings.max_labels,
            actual=len(labels),
            unit="labels",
        )
    read = dict(labels)
    check_labels(read, path, found)
    return read


def _retry(message: job_pb2.RetryPolicy, path: str, found: Violations) -> RetryOverrides:
    initial = longest = None
    if message.HasField("initial_backoff"):
        initial = _backoff(message.initial_backoff, f"{path}.initial_backoff", found)
    if message.HasField("max_backoff"):
        longest = _backoff(message.max_backoff, f"{path}.max_backoff", found)
    if initial is not None and longest is not None and longest < initial:
        found.note(f"{path}.max_backoff", "must not be shorter than initial_backoff")
    types = tuple(message.non_retryable_error_types)
    if len(types) > MAX_ERROR_TYPES or not all(map(is_error_type, types)):
        found.note(f"{path}.non_retryable_error_types", f"must be {ERROR_TYPES_RULE}")
    return RetryOverrides(
        max_attempts=_within(message, "max_attempts", (1, 100), path, found),
        initial_backoff=initial,
        max_backoff=longest,
        multiplier=_within(message, "multiplier", (1.0, 100.0), path, found),
        jitter=_within(message, "jitter", (0.0, 1.0), path, found),
        non_retryable_error_types=types or None,
    )


def _within(
    message: job_pb2.RetryPolicy, name: Any, bounds: tuple[N, N], path: str, found: Violations
) -> N | None:
    least, most = bounds
    if not message.HasField(name):
        return None
    value: N = getattr(message, name)
    # Written so that NaN fails.
    if not least <= value <= most:
        found.note(f"{path}.{name}", f"must be {least:g} to {most:g}")
    return value


def _backoff(message: Duration, path: str, found: Violations) -> timedelta | None:
    backoff = _duration(message, path, found)
    if backoff is not None and not timedelta() <= backoff <= MAX_BACKOFF:
        found.note(path, f"must be 0 to {MAX_BACKOFF.days} days")
    return backoff


def _time(message: Timestamp, path: str, found: Violations) -> datetime | None:
    seconds, nanos = message.seconds, message.nanos
    if not (0 <= seconds <= _LAST_SECOND and 0 <= nanos < 1_000_000_000):
        found.note(path, TIME_RULE)
        return None
    # Rounded down, so that the last accepted nanosecond stays below LAST_TIME.
    return FIRST_TIME + timedelta(seconds=seconds, microseconds=nanos // 1000)


def _duration(message: Duration, path: str, found: Violations) -> timedelta | None:
    seconds, nanos = message.seconds, message.nanos
    if (
        abs(seconds) > _LONGEST_SECONDS
        or abs(nanos) >= 1_000_000_000
        or (seconds > 0 > nanos)
        or (seconds < 0 < nanos)
    ):
        found.note(path, "must be a Duration: seconds and nanos of the same sign, in their ranges")
        return None
    return timedelta(seconds=seconds, microseconds=nanos // 1000)

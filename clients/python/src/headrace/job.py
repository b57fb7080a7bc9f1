"""Jobs, with the names of the contract (`headrace/v1/job.proto`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias, TypedDict

# A timedelta, or a number of seconds.
Duration: TypeAlias = float | timedelta


class JobState(StrEnum):
    """The state of a job."""

    SCHEDULED = "SCHEDULED"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    # Unknown to this version of the client.
    UNKNOWN = "UNKNOWN"

    @property
    def terminal(self) -> bool:
        """True if the job has ended; a requeued job is no longer in a terminal state."""
        return self in _TERMINAL


_TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class SubmitOutcome(StrEnum):
    """The result of a submit."""

    # The job was stored.
    CREATED = "CREATED"
    # The request_id was used before with the same content; the existing job was returned.
    EXISTING = "EXISTING"
    # Only validated: a live worker would run it.
    WOULD_RUN = "WOULD_RUN"
    # Only validated: the job would wait, because no live worker runs its type.
    NO_WORKER = "NO_WORKER"
    # Unknown to this version of the client.
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How failed attempts are retried: exponential backoff with jitter. None: the handler's value.

    Args:
        max_attempts: total attempts, including the first; 1 to 100.
        initial_backoff: the wait before the first retry, before jitter.
        max_backoff: the maximum wait.
        multiplier: factor between consecutive waits; 1 to 100.
        jitter: random share of the wait, 0 to 1; 1 is full jitter.
        non_retryable_error_types: values of `JobError.type` that are not retried, such as
            `ValueError` or `TIMEOUT`; at most 32. None or an empty list: the handler's list.

    Raises:
        TypeError: `non_retryable_error_types` is a string.
    """

    max_attempts: int | None = None
    initial_backoff: Duration | None = None
    max_backoff: Duration | None = None
    multiplier: float | None = None
    jitter: float | None = None
    non_retryable_error_types: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.non_retryable_error_types, str):
            raise TypeError("non_retryable_error_types is a string; it must be a list of names")


class JobOptions(TypedDict, total=False):
    """The options of `submit`; see `JobSpec`."""

    queue: str
    priority: int
    labels: Mapping[str, str]
    delay: Duration | None
    schedule_time: datetime | None
    timeout: Duration | None
    deadline: datetime | None
    retry: RetryPolicy | None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job to submit.

    Args:
        type: the job type, such as `email`; it selects the handler.
        payload: the handler's input, any JSON value. None: an empty object.
        queue: the name of the queue; empty: the handler's queue.
        priority: -100 to 100; jobs with higher priorities start first. One point equals a minute of
            waiting.
        labels: free-form labels for filters.
        delay: earliest start, from now by the local clock. With a `request_id`, use `schedule_time`
            instead, because a repeated submit with a delay has different content.
        schedule_time: earliest start, by the database's clock.
        timeout: maximum duration of one attempt. None: the handler's timeout.
        deadline: time at which the job expires. None: never.
        retry: the retry policy. None: the handler's policy.

    Raises:
        ValueError: both `delay` and `schedule_time` are set, or a time has no time zone.
    """

    type: str
    payload: Any = None
    _: KW_ONLY
    queue: str = ""
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    delay: Duration | None = None
    schedule_time: datetime | None = None
    timeout: Duration | None = None
    deadline: datetime | None = None
    retry: RetryPolicy | None = None

    def __post_init__(self) -> None:
        if self.delay is not None and self.schedule_time is not None:
            raise ValueError("use either delay or schedule_time, not both")
        if self.schedule_time is not None and self.schedule_time.tzinfo is None:
            raise ValueError(f"schedule_time is {self.schedule_time}; it must have a time zone")
        if self.deadline is not None and self.deadline.tzinfo is None:
            raise ValueError(f"deadline is {self.deadline}; it must have a time zone")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """The cause of a failed attempt or job.

    `type` is the name of an exception, or TIMEOUT, DEADLINE_EXCEEDED, WORKER_LOST or INTERRUPTED.
    `stack_trace` is the handler's traceback; only the full view of a job contains it.
    """

    type: str
    message: str
    retryable: bool
    stack_trace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of an attempt: `fraction` is 0 to 1; the handler defines `counters`."""

    fraction: float
    message: str = ""
    counters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Omitted:
    """Replaces a document that is too large for a response; `omitted_bytes` is its JSON size."""

    omitted_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutput:
    """A piece of output, from one `emit` call of a handler.

    `seq` is the number of the event with this piece, and `attempt` is the attempt that emitted it.
    """

    seq: int
    attempt: int
    output_time: datetime | None
    output: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job at the time of the call.

    Only the full view (`get`, or `list` with `full`) contains `payload` and `result`, and only a
    SUCCEEDED job has a `result`. `Client.output` yields the output. `attempt` is the number of
    attempts so far, `seq` is the number of the newest event, and `error` is the newest failure. All
    log lines about the job contain `correlation_id`. `traceparent` and `tracestate` are the trace
    context of the submit; they are empty without one. `submitted_by` is the principal that
    submitted the job; it is empty without access control. `unreadable_fields` lists fields that are
    empty because their stored values cannot be read. `withheld_fields` lists fields that are empty
    because the credential lacks the right `payload:read`. Times are UTC, by the database's clock;
    None means not yet.
    """

    id: str
    tenant: str
    type: str
    queue: str
    payload: Any
    priority: int
    labels: Mapping[str, str]
    timeout: timedelta | None
    deadline: datetime | None
    retry_policy: RetryPolicy
    request_id: str
    batch_id: str
    state: JobState
    attempt: int
    retries_used: int
    seq: int
    progress: Progress | None
    result: Any
    error: JobError | None
    worker_id: str
    create_time: datetime | None
    schedule_time: datetime | None
    queue_time: datetime | None
    start_time: datetime | None
    cancel_request_time: datetime | None
    end_time: datetime | None
    update_time: datetime | None
    correlation_id: str = ""
    unreadable_fields: tuple[str, ...] = ()
    submitted_by: str = ""
    traceparent: str = ""
    tracestate: str = ""
    withheld_fields: tuple[str, ...] = ()

"""Jobs and what is said of them. Every name is the contract's own (`headrace/v1/job.proto`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias, TypedDict

# A span of time: a timedelta, or a number of seconds.
Duration: TypeAlias = float | timedelta


class JobState(StrEnum):
    """Where a job is in its life."""

    SCHEDULED = "SCHEDULED"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    # One that this version of the client does not know.
    UNKNOWN = "UNKNOWN"

    @property
    def terminal(self) -> bool:
        """Whether the job has ended (until somebody requeues it)."""
        return self in _TERMINAL


_TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class SubmitOutcome(StrEnum):
    """What a submit did, or would do."""

    # The job was persisted.
    CREATED = "CREATED"
    # The request_id was used before for the same content: that job came back.
    EXISTING = "EXISTING"
    # Only validated: a live worker would run it.
    WOULD_RUN = "WOULD_RUN"
    # Only validated: it would wait, since no live worker has its type.
    NO_WORKER = "NO_WORKER"
    # One that this version of the client does not know.
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How failures are tried again: exponential backoff with jitter. None leaves it to the handler.

    Args:
        max_attempts: attempts in all, the first included; 1 to 100.
        initial_backoff: the wait before the first retry, before jitter.
        max_backoff: the longest wait.
        multiplier: the growth from one wait to the next; 1 to 100.
        jitter: the share of the wait that is random; 0 to 1, and 1 is full jitter.
        non_retryable_error_types: errors that end the job whatever is left of its attempts, by
            `JobError.type` to the letter, such as `ValueError` or `TIMEOUT`; at most 32. None or
            an empty list: those of the handler.

    Raises:
        TypeError: the types of errors are a single name.
    """

    max_attempts: int | None = None
    initial_backoff: Duration | None = None
    max_backoff: Duration | None = None
    multiplier: float | None = None
    jitter: float | None = None
    non_retryable_error_types: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.non_retryable_error_types, str):
            raise TypeError("non_retryable_error_types must be a list of names")


class JobOptions(TypedDict, total=False):
    """What `submit` can say of a job beside its type and payload; see `JobSpec`."""

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
    """What a submitter says of a job.

    Args:
        type: names the handler: `email`, `square_sum`.
        payload: the handler's argument, anything that JSON can say. None: an empty object.
        queue: empty: the handler's own queue.
        priority: -100 to 100; higher goes first, and each point is worth a minute of waiting.
        labels: free-form marks to list and watch by.
        delay: start no sooner than this from now. "Now" is by this machine's clock; and since it
            moves, a submit with a `request_id` of your own should say `schedule_time` instead.
        schedule_time: start no sooner than this, by the database's clock.
        timeout: how long one attempt may run. None: the handler decides.
        deadline: when the job, with all its attempts, must have ended. None: never.
        retry: how failures are tried again. None: the handler decides.

    Raises:
        ValueError: both `delay` and `schedule_time`, or a time without a time zone.
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
            raise ValueError("say either delay or schedule_time")
        if self.schedule_time is not None and self.schedule_time.tzinfo is None:
            raise ValueError("schedule_time must have a time zone")
        if self.deadline is not None and self.deadline.tzinfo is None:
            raise ValueError("deadline must have a time zone")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why an attempt or a job failed.

    `type` is an exception's name, or TIMEOUT, DEADLINE_EXCEEDED, WORKER_LOST, INTERRUPTED;
    `message` is for people; `stack_trace` is the handler's traceback. The stack trace is in the
    full view of a job only, and empty in events.
    """

    type: str
    message: str
    retryable: bool
    stack_trace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a running attempt is: `fraction` is 0 to 1, `counters` are the handler's own."""

    fraction: float
    message: str = ""
    counters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Omitted:
    """Stands for a document that was too large for a response; its JSON text has so many bytes."""

    omitted_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutput:
    """A piece of output: what one `emit` of the handler stored.

    `seq` is the number of its event within the job, `attempt` the attempt that emitted it.
    """

    seq: int
    attempt: int
    output_time: datetime | None
    output: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it was when the server answered.

    `payload` and `result` are there in the full view only (`get`, or `list` with `full`), and
    `result` only when it is SUCCEEDED. `Client.output` has what the handler emitted. `attempt`
    counts its starts, `seq` is the number of its newest event, `error` is its newest failure.
    `correlation_id` is in the log lines about the job. `unreadable_fields` names the fields whose
    stored values cannot be read, which are left out. Times are by the database's clock and in UTC;
    what has not happened is None.
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

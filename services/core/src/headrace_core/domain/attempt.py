"""One execution of a job: its identity, the claimed job, its reports and its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobError, JsonText, Progress
from headrace_core.domain.lifecycle import EventType, JobState, targets
from headrace_core.domain.retry import RetryOverrides
from headrace_core.domain.trace import TraceContext

# The largest PostgreSQL integer.
_MAX_ATTEMPT: Final = 2**31 - 1


class AttemptKey(NamedTuple):
    """The identity of an attempt, which is also its fencing token."""

    job_id: JobId
    attempt: int

    def __str__(self) -> str:
        """Return `{job}:{attempt}`, also the name of the delivery in Redis."""
        return f"{self.job_id}:{self.attempt}"

    @classmethod
    def parse(cls, name: str) -> AttemptKey:
        """Parse the result of `str()`.

        Raises:
            ValueError: the name does not have this form.
        """
        job_id, _, number = name.partition(":")
        attempt = int(number)
        if not 1 <= attempt <= _MAX_ATTEMPT:
            raise ValueError(f"attempt number {attempt} is not in 1..{_MAX_ATTEMPT}")
        return cls(job_id=JobId(UUID(job_id)), attempt=attempt)


class ClaimedJob(NamedTuple):
    """A job that a worker has claimed.

    `time_left` is the time from the claim to the deadline, and `wait` the time that the job was
    queued before the claim; None if it is unknown. `unreadable` names the fields that
    cannot be decoded; a job with such fields cannot run.
    """

    key: AttemptKey
    tenant: str
    type: str
    queue: str
    payload: JsonText
    labels: dict[str, str]
    retries_used: int
    worker_losses: int
    interruptions: int
    retry: RetryOverrides
    correlation_id: str | None
    timeout: timedelta | None
    deadline: datetime | None
    time_left: timedelta | None
    wait: timedelta | None = None
    trace_context: TraceContext | None = None
    unreadable: Sequence[str] = ()


# The fields that each end of an attempt requires: (result, error, backoff).
_REQUIRED_FIELDS: Final[dict[EventType, tuple[bool, bool, bool]]] = {
    EventType.SUCCEEDED: (True, False, False),
    EventType.RETRY_SCHEDULED: (False, True, True),
    EventType.FAILED: (False, True, False),
    EventType.INTERRUPTED: (False, False, False),
    EventType.WORKER_LOST: (False, True, False),
    EventType.CANCELLED: (False, False, False),
    EventType.EXPIRED: (False, True, False),
}
_FIELD_NAMES: Final = ("result", "error", "backoff")

_TARGETS: Final = {event: targets(event)[0] for event in _REQUIRED_FIELDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd:
    """The end of an attempt, reported by its worker.

    Args:
        key: the attempt.
        event: succeeded, retry scheduled, failed, interrupted, worker lost, cancelled or expired.
        result: the result, if succeeded.
        error: the error, if retry scheduled, failed, worker lost or expired. If the worker was
            lost, the job fails unless the error is retryable.
        backoff: the wait before the next attempt, if retry scheduled.

    Raises:
        ValueError: the event does not end an attempt, or its fields do not match. The database
            would reject the whole statement, including the ends of other attempts.
    """

    key: AttemptKey
    event: EventType
    result: JsonText | None = None
    error: JobError | None = None
    backoff: timedelta | None = None

    def __post_init__(self) -> None:
        given = (self.result is not None, self.error is not None, self.backoff is not None)
        if given != _REQUIRED_FIELDS.get(self.event):
            names = [name for name, present in zip(_FIELD_NAMES, given, strict=True) if present]
            raise ValueError(f"an attempt cannot end as {self.event} with {sorted(names)}")

    @property
    def state(self) -> JobState:
        """The new state of the job, unless a cancellation was requested earlier."""
        if self.event is EventType.WORKER_LOST:
            assert self.error is not None
            return JobState.QUEUED if self.error.retryable else JobState.FAILED
        return _TARGETS[self.event]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """A report of a running attempt: progress or a piece of output.

    Args:
        key: the attempt.
        progress: the progress; None in an output report.
        output: the piece of output; None in a progress report.
        number: the position among the attempt's reports, from 1; None if it is unknown. If the
            response is lost, the worker compares this position with the number of written reports.

    Raises:
        ValueError: both fields are set, or neither.
    """

    key: AttemptKey
    progress: Progress | None = None
    output: JsonText | None = None
    number: int | None = None

    def __post_init__(self) -> None:
        if (self.progress is None) == (self.output is None):
            raise ValueError("a report must have either progress or output")

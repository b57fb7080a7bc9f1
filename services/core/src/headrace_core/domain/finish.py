"""How an attempt ends, as its worker says it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobError, JsonText, Progress
from headrace_core.domain.lifecycle import EventType, JobState, targets

_NAMES = ("result", "error", "backoff")

# How a worker may end an attempt, and which of result, error and backoff it then has to say.
_SAYS: dict[EventType, tuple[bool, bool, bool]] = {
    EventType.SUCCEEDED: (True, False, False),
    EventType.RETRY_SCHEDULED: (False, True, True),
    EventType.FAILED: (False, True, False),
    EventType.INTERRUPTED: (False, False, False),
    EventType.WORKER_LOST: (False, True, False),
    EventType.CANCELLED: (False, False, False),
    EventType.EXPIRED: (False, True, False),
}

_LEADS_TO = {event: targets(event)[0] for event in _SAYS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The end of an attempt.

    Args:
        job_id, attempt: which attempt; the fence.
        event: succeeded, retry scheduled, failed, interrupted, worker lost, cancelled or expired.
        result: of succeeded.
        error: of retry scheduled, failed, worker lost and expired. A worker lost fails the job
            unless its error is retryable.
        backoff: of retry scheduled: how long to wait.

    Raises:
        ValueError: the event is none of these, or something is missing or too much. The database
            would refuse it as well, but with all that is written together with it.
    """

    job_id: JobId
    attempt: int
    event: EventType
    result: JsonText | None = None
    error: JobError | None = None
    backoff: timedelta | None = None

    def __post_init__(self) -> None:
        said = (self.result is not None, self.error is not None, self.backoff is not None)
        if said != _SAYS.get(self.event):
            names = [name for name, is_said in zip(_NAMES, said, strict=True) if is_said]
            raise ValueError(f"an attempt cannot end as {self.event} with {sorted(names)}")

    @property
    def state(self) -> JobState:
        """Where it leads, unless a cancellation was asked for before."""
        if self.event is EventType.WORKER_LOST:
            assert self.error is not None
            return JobState.QUEUED if self.error.retryable else JobState.FAILED
        return _LEADS_TO[self.event]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a running attempt said: progress or a piece of output, one of the two.

    Args:
        job_id, attempt: which attempt; the fence.
        progress, output: what it said.
        number: the how manieth of its attempt it is, from 1 on. It tells whether one whose answer
            got lost was written. None when that is not known.

    Raises:
        ValueError: it is none of them, or both.
    """

    job_id: JobId
    attempt: int
    progress: Progress | None = None
    output: JsonText | None = None
    number: int | None = None

    def __post_init__(self) -> None:
        if (self.progress is None) == (self.output is None):
            raise ValueError("a report is either progress or output")

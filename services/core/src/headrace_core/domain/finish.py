"""How an attempt ends, as its worker says it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobError, JsonText, Progress
from headrace_core.domain.lifecycle import EventType

# How a worker may end an attempt, and what it then has to say.
_SAYS: dict[EventType, set[str]] = {
    EventType.SUCCEEDED: {"result"},
    EventType.RETRY_SCHEDULED: {"error", "backoff"},
    EventType.FAILED: {"error"},
    EventType.INTERRUPTED: set(),
    EventType.CANCELLED: set(),
    EventType.EXPIRED: {"error"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The end of an attempt.

    Args:
        job_id, attempt: which attempt; the fence.
        event: succeeded, retry scheduled, failed, interrupted, cancelled or expired.
        result: of succeeded.
        error: of retry scheduled, failed and expired.
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
        said = {name for name in ("result", "error", "backoff") if getattr(self, name) is not None}
        if said != _SAYS.get(self.event):
            raise ValueError(f"an attempt cannot end as {self.event} with {sorted(said)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a running attempt said: progress or a piece of output, one of the two.

    Raises:
        ValueError: it is none of them, or both.
    """

    job_id: JobId
    attempt: int
    progress: Progress | None = None
    output: JsonText | None = None

    def __post_init__(self) -> None:
        if (self.progress is None) == (self.output is None):
            raise ValueError("a report is either progress or output")

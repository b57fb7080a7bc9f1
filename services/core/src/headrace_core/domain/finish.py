"""How an attempt ends, as its worker says it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobError, JsonText, Progress
from headrace_core.domain.lifecycle import EventType


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The end of an attempt.

    Args:
        job_id, attempt: which attempt; the fence.
        event: succeeded, retry scheduled, failed, interrupted, cancelled or expired.
        result: of succeeded.
        error: of retry scheduled, failed and expired.
        backoff: of retry scheduled: how long to wait.
    """

    job_id: JobId
    attempt: int
    event: EventType
    result: JsonText | None = None
    error: JobError | None = None
    backoff: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a running attempt said: progress or a piece of output, one of the two."""

    job_id: JobId
    attempt: int
    progress: Progress | None = None
    output: JsonText | None = None

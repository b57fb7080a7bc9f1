"""The transitions of a job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from headrace.job import JobError, JobState, Progress


class JobEventType(StrEnum):
    """What happened to a job."""

    # Persisted: now QUEUED, or SCHEDULED when its time is in the future.
    SUBMITTED = "SUBMITTED"
    # Its time has come: now QUEUED.
    DUE = "DUE"
    # A worker took it: now RUNNING, with a new attempt number.
    STARTED = "STARTED"
    # The handler told how far it is.
    PROGRESSED = "PROGRESSED"
    # The handler emitted a piece of output.
    OUTPUT = "OUTPUT"
    # Ended well.
    SUCCEEDED = "SUCCEEDED"
    # The attempt failed, and the job waits for its backoff.
    RETRY_SCHEDULED = "RETRY_SCHEDULED"
    # Ended with an error.
    FAILED = "FAILED"
    # Its worker drains: QUEUED again, and no retry is spent.
    INTERRUPTED = "INTERRUPTED"
    # Its worker died or hung: QUEUED again, or FAILED when that happened too often.
    WORKER_LOST = "WORKER_LOST"
    # Somebody asked for its cancellation while it was RUNNING.
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    # Ended on request.
    CANCELLED = "CANCELLED"
    # Its deadline passed: FAILED.
    EXPIRED = "EXPIRED"
    # A person put it back: QUEUED, with a fresh retry budget.
    REQUEUED = "REQUEUED"
    # One that this version of the client does not know.
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One transition of one job; `(job_id, seq)` names it for ever.

    The events of a job are numbered 1, 2, 3 … without a gap. `state` is the job's from this event
    on. `error`, `progress`, `output`, `schedule_time` (when it will be due) and `worker_id` are
    there on the kinds of events that have them.
    """

    job_id: str
    seq: int
    type: JobEventType
    state: JobState
    attempt: int
    event_time: datetime | None
    job_type: str
    queue: str
    error: JobError | None = None
    progress: Progress | None = None
    output: Any = None
    schedule_time: datetime | None = None
    worker_id: str = ""

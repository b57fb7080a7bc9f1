"""The events of a job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from headrace.job import JobError, JobState, Progress


class JobEventType(StrEnum):
    """The type of an event."""

    # The job was stored: QUEUED, or SCHEDULED if its schedule time is in the future.
    SUBMITTED = "SUBMITTED"
    # The schedule time has passed: QUEUED.
    DUE = "DUE"
    # A worker claimed the job: RUNNING, with a new attempt number.
    STARTED = "STARTED"
    # The handler reported progress.
    PROGRESSED = "PROGRESSED"
    # The handler emitted output.
    OUTPUT = "OUTPUT"
    # The job succeeded.
    SUCCEEDED = "SUCCEEDED"
    # The attempt failed; the job waits for its retry.
    RETRY_SCHEDULED = "RETRY_SCHEDULED"
    # The job failed.
    FAILED = "FAILED"
    # The worker stopped: QUEUED again, without using a retry.
    INTERRUPTED = "INTERRUPTED"
    # The worker died or hung: QUEUED again, or FAILED if the crash budget is spent.
    WORKER_LOST = "WORKER_LOST"
    # A client requested cancellation while the job was RUNNING.
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    # The job was cancelled.
    CANCELLED = "CANCELLED"
    # The deadline passed: FAILED.
    EXPIRED = "EXPIRED"
    # A client requeued the job with a new retry budget: QUEUED, or SCHEDULED if it never started
    # and its schedule time is in the future.
    REQUEUED = "REQUEUED"
    # Unknown to this version of the client.
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One transition of one job, identified by `(job_id, seq)`.

    The events of a job are numbered 1, 2, 3 … without a gap. `state` is the state after the event.
    `error`, `progress`, `output`, `schedule_time` and `worker_id` are set only for some event
    types. `principal` is the caller that submitted, cancelled or requeued the job, and `reason` is
    the reason that it gave. `withheld_fields` lists fields that are empty because the credential
    lacks the right `payload:read`.
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
    principal: str = ""
    reason: str = ""
    withheld_fields: tuple[str, ...] = ()

"""Jobs, their events, errors and progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from headrace_core.domain.ids import BatchId, JobId, WorkerId
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.limits import MAX_ERROR_MESSAGE, MAX_ERROR_TYPE, MAX_STACK_TRACE
from headrace_core.domain.retry import RetryOverrides
from headrace_core.domain.text import clean_line, clean_text

DEFAULT_TENANT: Final = "default"
DEFAULT_QUEUE: Final = "default"

# The waiting time that equals one point of priority. The rank of a job is therefore constant, so it
# can be indexed. No job starves: a job of priority 100 precedes jobs of priority 0 that have waited
# less than 100 minutes.
PRIORITY_POINT: Final = timedelta(minutes=1)

# JSON text, exactly as received.
JsonText = str

# The value of a stored time that cannot be read, such as an infinite one.
UNREADABLE_TIME: Final = datetime.max.replace(tzinfo=UTC)


def valid_text(text: str) -> str:
    """Return text that UTF-8 can encode. A lone surrogate becomes a `?`."""
    return text.encode(errors="replace").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A validated job, except for its payload.

    An empty `queue` means the queue of the handler. `deadline_after` sets the deadline to a
    time after the insert, by the database's clock. It is the remaining time of the call. It
    differs when the call is repeated, so it is not part of the content.
    """

    type: str
    queue: str = ""
    priority: int = 0
    # A mapping is not hashable. Specs with different labels are still unequal.
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    schedule_time: datetime | None = None
    timeout: timedelta | None = None
    deadline: datetime | None = None
    deadline_after: timedelta | None = None
    retry: RetryOverrides = RetryOverrides()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """The reason for the failure of an attempt or a job.

    Handlers write the texts. They are cleaned and cut here, so an error from a handler or from an
    older version cannot harm a reader.

    Args:
        type: the name of the exception, or a name defined by Headrace, such as TIMEOUT.
        message: a text for people; the type if the exception has no message.
        retryable: whether another attempt may succeed.
        stack_trace: the stack trace of the handler; empty in events and in the BASIC view.
    """

    type: str
    message: str
    retryable: bool
    stack_trace: str = ""

    def __post_init__(self) -> None:
        # A handler may set the type of its exception to anything.
        kind = clean_line(self.type, MAX_ERROR_TYPE) if isinstance(self.type, str) else ""
        kind = kind or "Error"
        object.__setattr__(self, "type", kind)
        object.__setattr__(self, "message", clean_text(self.message, MAX_ERROR_MESSAGE) or kind)
        object.__setattr__(self, "stack_trace", clean_text(self.stack_trace, MAX_STACK_TRACE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of an attempt. `fraction` is 0 to 1, `counters` a JSON object of numbers."""

    fraction: float
    message: str = ""
    counters: JsonText = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A stored job. `payload` and `result` are None in the BASIC view.

    `unreadable` names the stored fields that cannot be decoded. They have the value of an empty
    column, or `UNREADABLE_TIME`.
    """

    id: JobId
    tenant: str
    type: str
    queue: str
    payload: JsonText | None
    priority: int
    labels: Mapping[str, str]
    timeout: timedelta | None
    deadline: datetime | None
    retry: RetryOverrides
    request_id: str | None
    batch_id: BatchId | None
    state: JobState
    attempt: int
    retries_used: int
    seq: int
    progress: Progress | None
    result: JsonText | None
    error: JobError | None
    worker_id: WorkerId | None
    create_time: datetime
    due_time: datetime
    queue_time: datetime | None
    start_time: datetime | None
    cancel_request_time: datetime | None
    end_time: datetime | None
    update_time: datetime
    # The x-request-id of the submit call.
    correlation_id: str | None = None
    unreadable: Sequence[str] = ()


def rank_of(job: Job) -> float:
    """Return the rank of a job in its lane; the lowest rank is first.

    It is the due time in milliseconds since 1970, minus the waiting time equal to the priority.
    """
    return (job.due_time.timestamp() - job.priority * PRIORITY_POINT.total_seconds()) * 1000


# Events never change. The class is not frozen, because frozen instances take three times as long to
# create, and each gateway creates every event of every stream.
@dataclass(slots=True, kw_only=True)
class JobEvent:
    """One transition. `job_type`, `queue`, `labels` and `batch_id` belong to the job."""

    job_id: JobId
    seq: int
    type: EventType
    state: JobState
    attempt: int
    time: datetime
    job_type: str
    queue: str
    labels: Mapping[str, str]
    batch_id: BatchId | None
    tenant: str
    error: JobError | None = None
    progress: Progress | None = None
    output: JsonText | None = None
    due_time: datetime | None = None
    worker_id: WorkerId | None = None
    # The place of the event in the event log.
    xid: int = 0
    position: int = 0

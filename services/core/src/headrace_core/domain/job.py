"""Jobs, their events and what is said of them."""

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

# A point of priority is worth this much waiting. A fixed worth makes the rank of a job a constant
# that an index can hold, and lets every job come up in the end: priority 100 goes ahead of what
# priority 0 has waited up to 100 minutes for, and of nothing that has waited longer.
PRIORITY_POINT: Final = timedelta(minutes=1)

# JSON text, exactly as it was given.
JsonText = str


# Stands for a stored time that cannot be read, such as an infinite one.
UNREADABLE_TIME: Final = datetime.max.replace(tzinfo=UTC)


def valid_text(text: str) -> str:
    """Text that UTF-8 can say. A lone surrogate, as in the name of a file, becomes a `?`."""
    return text.encode(errors="replace").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A validated job, except for its payload.

    An empty `queue` stands for the queue of the handler. `deadline_after` sets the deadline to a
    time after the insert, by the database's clock. It is the time left of the call, which differs
    between repetitions, so it is not part of the content.
    """

    type: str
    queue: str = ""
    priority: int = 0
    # A mapping has no hash; specs that differ in their labels alone are unequal all the same.
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    schedule_time: datetime | None = None
    timeout: timedelta | None = None
    deadline: datetime | None = None
    deadline_after: timedelta | None = None
    retry: RetryOverrides = RetryOverrides()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why an attempt or a job failed.

    Its texts come from handlers. Each is cleaned and cut here, so no error that a handler raises
    or that an older version stored can harm a reader.

    Args:
        type: the exception's name, or a name of Headrace's own such as TIMEOUT.
        message: for people; the type when the exception has no message.
        retryable: whether another attempt may succeed.
        stack_trace: where the handler raised it; empty in events and in the BASIC view.
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
    """How far an attempt is. `fraction` is 0 to 1, `counters` a JSON object of numbers."""

    fraction: float
    message: str = ""
    counters: JsonText = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it is stored. `payload` and `result` are None in the BASIC view.

    `unreadable` names the fields that the row has and that cannot be read: they are as if nothing
    were stored, or `UNREADABLE_TIME`.
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
    # The x-request-id of the submit.
    correlation_id: str | None = None
    unreadable: Sequence[str] = ()


def rank_of(job: Job) -> float:
    """What queues are served by, lowest first: the milliseconds since 1970 at which a job was due,
    less the worth of its priority.
    """
    return (job.due_time.timestamp() - job.priority * PRIORITY_POINT.total_seconds()) * 1000


# Not frozen, though nothing ever changes one: making a frozen one takes three times as long, and
# every event of every stream is made once in each gateway.
@dataclass(slots=True, kw_only=True)
class JobEvent:
    """One transition. `job_type`, `queue`, `labels` and `batch_id` are the job's."""

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
    # Where it stands in the order of all events.
    xid: int = 0
    position: int = 0

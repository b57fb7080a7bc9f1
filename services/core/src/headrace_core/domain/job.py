"""Jobs, their events, errors and progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from headrace_core.domain.ids import BatchId, JobId, WorkerId
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.limits import MAX_ERROR_MESSAGE, MAX_ERROR_TYPE, MAX_STACK_TRACE
from headrace_core.domain.retry import RetryOverrides, set_fields
from headrace_core.domain.text import clean_line, clean_text
from headrace_core.domain.trace import TraceContext

DEFAULT_TENANT: Final = "default"
DEFAULT_QUEUE: Final = "default"

# One point of priority counts as this much waiting time. The rank of a job therefore never changes
# and can be indexed. No job starves: a job with priority 100 precedes only those jobs with priority
# 0 that have waited at most 100 minutes longer.
PRIORITY_POINT: Final = timedelta(minutes=1)

# JSON text, exactly as received.
JsonText = str

# Replaces a stored time that Python cannot represent, such as infinity.
UNREADABLE_TIME: Final = datetime.max.replace(tzinfo=UTC)


def replace_surrogates(text: str) -> str:
    """Return `text` with a `?` in place of each lone surrogate, which UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A validated job, except for its payload.

    An empty `queue` means the handler's queue. `deadline_after` is the time from the insert to the
    deadline, by the database's clock: the remaining time of the call. Repeated calls have different
    values, so it is not part of the content.
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

    def around_payload(self) -> tuple[str, str]:
        """Return the text of the fingerprint: the parts before and after the payload.

        Stored fingerprints depend on this text, so the text of an existing field must not change.
        Append a new field only if it is set.
        """
        after = (
            self.priority,
            sorted(self.labels.items()),
            self.schedule_time and self.schedule_time.timestamp(),
            self.timeout and self.timeout.total_seconds(),
            self.deadline and self.deadline.timestamp(),
            # Unset fields are left out, so adding a field does not change earlier fingerprints.
            set_fields(self.retry),
        )
        return f"({self.type!r}, {self.queue!r}, ", f", {repr(after)[1:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """The reason for the failure of an attempt or a job.

    Handlers write the texts. This class cleans and truncates them, so an error from a handler or
    from an older version cannot break its readers.

    Args:
        type: the name of the exception, or a name defined by Headrace, such as TIMEOUT.
        message: a message for people; the error type if the exception has no message.
        retryable: whether another attempt may succeed.
        stack_trace: the handler's stack trace; empty in events and in the BASIC view.
    """

    type: str
    message: str
    retryable: bool
    stack_trace: str = ""

    def __post_init__(self) -> None:
        # A handler can set the error type to any value.
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

    `unreadable` names the stored fields that cannot be decoded. Such a field has the value of an
    empty column, or `UNREADABLE_TIME` for a required time.
    """

    id: JobId
    tenant: str
    type: str
    queue: str
    payload: JsonText | None = None
    priority: int
    labels: Mapping[str, str]
    timeout: timedelta | None
    deadline: datetime | None
    retry: RetryOverrides
    request_id: str | None
    batch_id: BatchId | None
    state: JobState
    attempt: int = 0
    retries_used: int = 0
    seq: int = 1
    progress: Progress | None = None
    result: JsonText | None = None
    error: JobError | None = None
    worker_id: WorkerId | None = None
    create_time: datetime
    due_time: datetime
    queue_time: datetime | None
    start_time: datetime | None = None
    cancel_request_time: datetime | None = None
    end_time: datetime | None = None
    update_time: datetime
    # The x-request-id of the submit call.
    correlation_id: str | None = None
    # The principal of the submit call; None if access control was off.
    submitted_by: str | None = None
    # The trace context of the submit call.
    trace_context: TraceContext | None = None
    unreadable: Sequence[str] = ()
    # The fields that were removed because the caller may not read them, by their names in the API.
    withheld: Sequence[str] = ()


def rank_of(job: Job) -> float:
    """Return the rank of a job in its lane; the lowest rank is first.

    The rank is the due time in milliseconds since 1970, minus `PRIORITY_POINT` for each point of
    priority.
    """
    return (job.due_time.timestamp() - job.priority * PRIORITY_POINT.total_seconds()) * 1000


# Events never change. The class is not frozen, because frozen instances take three times as long to
# create, and each gateway creates every event of every stream.
@dataclass(slots=True, kw_only=True)
class JobEvent:
    """One transition. `job_type`, `queue`, `labels` and `batch_id` are copied from the job."""

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
    # The principal that submitted, cancelled or requeued the job, and its reason.
    principal: str | None = None
    reason: str | None = None
    # See Job.
    withheld: Sequence[str] = ()
    # The place of the event in the event log.
    xid: int = 0
    position: int = 0

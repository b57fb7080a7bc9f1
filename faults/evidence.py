"""The evidence of a trial, from which the invariants are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.retry import RetryPolicy

# The tenant of the load and of the streams.
TENANT = "default"

# The identity of an event: (job id, seq).
EventId = tuple[str, int]


class Outcome(StrEnum):
    """The result of a submit, as far as its client knows."""

    INVOKED = "invoked"
    OK = "ok"
    # The submit was rejected; the job must not exist.
    FAILED = "failed"
    # The response was lost; the job may exist.
    UNKNOWN = "unknown"


@dataclass(slots=True, kw_only=True)
class Submission:
    """One submit, including its repeated calls.

    `invoked` and `responded` are seconds since 1970; `codes` are the status codes of failed calls.
    """

    request_id: str
    invoked: float
    outcome: Outcome = Outcome.INVOKED
    job_id: str = ""
    responded: float = 0.0
    codes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A row of `jobs`.

    Attributes:
        policy: the retry policy of the job.
        max_retry_after: the longest delay that a callee may add to a retry (Retry-After).
        unwatched: the job ended before any stream was open.
    """

    id: str
    tenant: str
    type: str
    queue: str
    labels: Mapping[str, str]
    request_id: str | None
    state: JobState
    seq: int
    policy: RetryPolicy
    attempt: int = 0
    worker_losses: int = 0
    result: str | None = None
    max_retry_after: timedelta = timedelta()
    unwatched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """A row of `job_events`.

    `time` and `due_time` are by the database's clock; `worker_id` is the worker of the attempt.
    """

    job_id: str
    seq: int
    type: EventType
    state: JobState
    attempt: int
    time: datetime
    due_time: datetime | None = None
    worker_id: str = ""

    @property
    def name(self) -> EventId:
        return self.job_id, self.seq


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """An entry of the ledger: a handler started this attempt."""

    job_id: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFilter:
    """The filter of a stream; an empty filter matches everything."""

    tenant: str = TENANT
    queues: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    states: tuple[JobState, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    job_ids: tuple[str, ...] = ()

    def matches(self, job: JobRow, event: EventRow) -> bool:
        """Return whether the stream should deliver an event; shares no code with the gateway."""
        return (
            not job.unwatched
            and job.tenant == self.tenant
            and (not self.queues or job.queue in self.queues)
            and (not self.types or job.type in self.types)
            and (not self.states or event.state in self.states)
            and all(job.labels.get(key) == value for key, value in self.labels.items())
            and (not self.job_ids or job.id in self.job_ids)
        )


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event that a stream received.

    `connection` is the number of the stream's connection. `received` is the time of receipt and
    `time` the time in the event, both in seconds since 1970.
    """

    connection: int
    job_id: str
    seq: int
    received: float
    time: float

    @property
    def name(self) -> EventId:
        return self.job_id, self.seq


@dataclass(slots=True, kw_only=True)
class StreamLog:
    """All events that a stream received over its connections.

    Attributes:
        connected: the start time of each connection, in seconds since 1970.
        codes: the status codes with which connections ended.
        failure: the error that ended the stream permanently; empty without one.
    """

    name: str
    wanted: StreamFilter
    shown: list[ReceivedEvent] = field(default_factory=list)
    connected: list[float] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The use of a resource before and after the fault; `slack` is allowed in addition to 10 %."""

    what: str
    before: float
    after: float
    unit: str = ""
    slack: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """The recovery of the throughput after a fault.

    Args:
        what: the fault.
        before: throughput before the fault, in jobs per second.
        seconds: time from the end of the fault until 90 % of that throughput; None: never reached.
        limit: the longest recovery allowed, in seconds.
    """

    what: str
    before: float
    seconds: float | None
    limit: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All evidence of a trial; `events` are ordered by job and number."""

    submissions: Sequence[Submission] = ()
    jobs: Mapping[str, JobRow] = field(default_factory=dict)
    events: Sequence[EventRow] = ()
    ledger: Sequence[LedgerEntry] = ()
    streams: Sequence[StreamLog] = ()
    usages: Sequence[Usage] = ()
    recoveries: Sequence[Recovery] = ()

    def of_load_tenant(self) -> Evidence:
        """Return the evidence without the jobs and events of other tenants."""
        jobs = {job_id: job for job_id, job in self.jobs.items() if job.tenant == TENANT}
        events = [event for event in self.events if event.job_id in jobs]
        return replace(self, jobs=jobs, events=events)

    def by_job(self) -> dict[str, list[EventRow]]:
        """Return the events of each job, ordered by number."""
        histories: dict[str, list[EventRow]] = {job_id: [] for job_id in self.jobs}
        for event in self.events:
            histories.setdefault(event.job_id, []).append(event)
        for history in histories.values():
            history.sort(key=lambda event: event.seq)
        return histories

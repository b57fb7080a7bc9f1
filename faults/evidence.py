"""What a scenario leaves behind, as the invariants read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.retry import RetryPolicy

# Whose jobs the load submits, and the streams follow.
TENANT = "default"

# What names an event for ever: (job, seq).
Name = tuple[str, int]


class Outcome(StrEnum):
    """What the load knows of a submit."""

    INVOKED = "invoked"
    OK = "ok"
    # Refused: the job must not be there.
    FAILED = "failed"
    # The answer got lost: the job may be there.
    UNKNOWN = "unknown"


@dataclass(slots=True, kw_only=True)
class Submission:
    """One submit, with all its attempts.

    `invoked` and `answered` are seconds since 1970; `codes` are those of the attempts that failed.
    """

    request_id: str
    invoked: float
    outcome: Outcome = Outcome.INVOKED
    job_id: str = ""
    answered: float = 0.0
    codes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A row of `jobs`.

    `policy` is what its retries must keep to, and `asked` what somebody whom it calls may put each
    of them off for. `unwatched` is one that had ended before any stream was opened.
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
    asked: timedelta = timedelta()
    unwatched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """A row of `job_events`. `time` and `due_time` are by the database's clock.

    `worker_id` is that of the worker that started the attempt.
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
    def name(self) -> Name:
        return self.job_id, self.seq


@dataclass(frozen=True, slots=True)
class Run:
    """An entry of the ledger: a handler has begun this attempt."""

    job_id: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a stream asked for. Empty: everything."""

    tenant: str = TENANT
    queues: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    states: tuple[JobState, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    job_ids: tuple[str, ...] = ()

    def matches(self, job: JobRow, event: EventRow) -> bool:
        """Whether an event should have been shown. It shares no code with the gateway's filters."""
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
class Shown:
    """An event as a stream has shown it.

    `connection` counts how often the stream was (re)started; `received` is when it came and `time`
    what it says itself, both in seconds since 1970.
    """

    connection: int
    job_id: str
    seq: int
    received: float
    time: float

    @property
    def name(self) -> Name:
        return self.job_id, self.seq


@dataclass(slots=True, kw_only=True)
class StreamLog:
    """All that a stream has shown, united over its connections.

    `connected` are the times at which it was started, `codes` those with which it was cut, and
    `failure` is what it has ended with though it should not have.
    """

    name: str
    wanted: Wanted
    shown: list[Shown] = field(default_factory=list)
    connected: list[float] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What something holds before and after; `slack` is allowed beyond the ten percent."""

    what: str
    before: float
    after: float
    unit: str = ""
    slack: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How fast jobs ended before a fault, and when they did again.

    Args:
        what: the fault.
        before: jobs per second.
        seconds: from the end of the fault until 90 % of that were reached; None: never.
        limit: the most seconds it may take.
    """

    what: str
    before: float
    seconds: float | None
    limit: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that there is to judge. `events` stand in the order of their jobs' numbers."""

    submissions: Sequence[Submission] = ()
    jobs: Mapping[str, JobRow] = field(default_factory=dict)
    events: Sequence[EventRow] = ()
    ledger: Sequence[Run] = ()
    streams: Sequence[StreamLog] = ()
    usages: Sequence[Usage] = ()
    recoveries: Sequence[Recovery] = ()

    def without_neighbours(self) -> Evidence:
        """The same of the load's own tenant."""
        jobs = {job_id: job for job_id, job in self.jobs.items() if job.tenant == TENANT}
        events = [event for event in self.events if event.job_id in jobs]
        return replace(self, jobs=jobs, events=events)

    def by_job(self) -> dict[str, list[EventRow]]:
        """The events of each job, by number."""
        histories: dict[str, list[EventRow]] = {job_id: [] for job_id in self.jobs}
        for event in self.events:
            histories.setdefault(event.job_id, []).append(event)
        for history in histories.values():
            history.sort(key=lambda event: event.seq)
        return histories

"""The state of workers, queues and jobs, for people who watch them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from headrace_core.domain.durations import quantile
from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.lifecycle import JobState

# The maximum number of running jobs that are listed for one worker.
MAX_LISTED_JOBS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job that a worker runs."""

    id: JobId
    type: str
    queue: str
    attempt: int
    start_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """A registered worker, as one tenant sees it.

    Attributes:
        id: the worker id.
        name: its name.
        pool: its pool.
        tenants: the tenants that it serves; empty for all tenants.
        queues: the queues that it serves; empty for all queues.
        types: the job types that it runs, sorted.
        slots: the number of its slots.
        busy_slots: the number of slots that run visible jobs.
        running_jobs: the visible running jobs, the earliest start first; at most MAX_LISTED_JOBS.
        draining: whether it accepts no more jobs.
        live: whether its lease is valid.
        start_time: the time of its registration.
        heartbeat_time: the last renewal of its lease.
        lease_expire_time: the end of its lease.
    """

    id: WorkerId
    name: str
    pool: str
    tenants: frozenset[str]
    queues: frozenset[str]
    types: Sequence[str]
    slots: int
    busy_slots: int
    running_jobs: Sequence[RunningJob]
    draining: bool
    live: bool
    start_time: datetime
    heartbeat_time: datetime
    lease_expire_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """A queue and the workers that serve it.

    Attributes:
        queue: the queue.
        states: the number of jobs by state; states without jobs may be omitted.
        oldest_queue_time: the time at which the oldest QUEUED job was queued; None without one.
        workers: the number of accepting workers that serve the queue.
        slots: their slots.
    """

    queue: str
    states: Mapping[JobState, int]
    oldest_queue_time: datetime | None
    workers: int
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OldestJob:
    """The QUEUED job of a lane that has waited for the longest time; `id` may be unknown."""

    id: JobId | None
    queue: str
    type: str
    queue_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Events per second over `window` seconds."""

    window: float
    submitted: float
    started: float
    retried: float
    succeeded: float
    failed: float
    cancelled: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The number of measured durations, and two quantiles; None without durations."""

    count: int
    p50: timedelta | None
    p95: timedelta | None


def latency_of(counts: Mapping[int, int]) -> Latency:
    """Return the number of durations and their quantiles.

    Args:
        counts: the number of durations by bucket (domain/durations.py).
    """
    return Latency(
        count=sum(counts.values()), p50=quantile(counts, 0.5), p95=quantile(counts, 0.95)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingType:
    """The attempts of a job type that ended with a type of error, and the newest of them."""

    type: str
    error_type: str
    attempts: int
    last_job_id: JobId
    last_time: datetime


# Overviews are shared and compared by identity.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overview:
    """The state of a tenant, or of the part of it within a scope.

    Attributes:
        time: the time of the overview.
        count_time: the time of the last count of all jobs.
        states: the number of jobs by state.
        queues: the queues by name.
        omitted_queues: the number of queues that are not in `queues`.
        oldest_job: the QUEUED job that has waited for the longest time.
        workers: the number of live workers that accept jobs.
        draining_workers: the number of live workers that drain.
        slots: the slots of workers that accept jobs.
        busy_slots: the number of slots that run jobs.
        rates: the rates over a short and a long window.
        wait: the time between queueing and start.
        run: the duration of attempts.
        failing_types: the most frequent errors.
    """

    time: datetime
    count_time: datetime
    states: Mapping[JobState, int]
    queues: Sequence[QueueStatus]
    omitted_queues: int
    oldest_job: OldestJob | None
    workers: int
    draining_workers: int
    slots: int
    busy_slots: int
    rates: Sequence[Rates]
    wait: Latency
    run: Latency
    failing_types: Sequence[FailingType]


class HistoryPoint(NamedTuple):
    """The events of one period.

    Attributes:
        time: the start of the period.
        counts: the number of jobs and attempts by their names in the API.
        waits: the number of starts by the bucket of their wait.
        runs: the number of ended attempts by the bucket of their duration.
    """

    time: datetime
    counts: Mapping[str, int]
    waits: Mapping[int, int]
    runs: Mapping[int, int]

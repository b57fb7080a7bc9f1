"""Workers, queues, overviews and histories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from headrace.job import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job that a worker runs."""

    job_id: str
    type: str
    queue: str
    attempt: int
    start_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker that serves the tenant.

    Empty `queues` means all queues, and empty `tenants` means all tenants. `busy_slots` and
    `running_jobs` contain only jobs of the tenant, and at most 100 running jobs are listed. A
    worker that is not `live` has lost its lease; its jobs run again elsewhere.
    """

    id: str
    name: str
    pool: str
    tenants: tuple[str, ...]
    queues: tuple[str, ...]
    types: tuple[str, ...]
    slots: int
    busy_slots: int
    running_jobs: tuple[RunningJob, ...]
    draining: bool
    live: bool
    start_time: datetime | None
    heartbeat_time: datetime | None
    lease_expire_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """The job counts of a queue, and the live workers that serve it with their slots."""

    queue: str
    states: Mapping[JobState, int]
    oldest_queue_time: datetime | None
    workers: int
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OldestJob:
    """The job that has been QUEUED for the longest time; `job_id` can be empty."""

    job_id: str
    queue: str
    type: str
    queue_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Events per second over `window`."""

    window: timedelta | None
    submitted: float
    started: float
    retried: float
    succeeded: float
    failed: float
    cancelled: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The median and the 95th percentile of `count` durations; None without durations."""

    count: int
    p50: timedelta | None
    p95: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingType:
    """The attempts of a job type that ended with a type of error in the last five minutes."""

    type: str
    error_type: str
    attempts: int
    last_job_id: str
    last_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The current state of a tenant; MonitorService in `monitor_service.proto` has details."""

    overview_time: datetime | None
    count_time: datetime | None
    states: Mapping[JobState, int]
    queues: tuple[QueueStatus, ...]
    omitted_queues: int
    oldest_job: OldestJob | None
    workers: int
    draining_workers: int
    slots: int
    busy_slots: int
    rates: tuple[Rates, ...]
    wait: Latency
    run: Latency
    failing_types: tuple[FailingType, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPoint:
    """The events of one period."""

    start_time: datetime | None
    submitted: int
    started: int
    retried: int
    succeeded: int
    failed: int
    cancelled: int
    wait: Latency
    run: Latency


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The points of a history, the earliest first, and the length of their periods."""

    points: tuple[HistoryPoint, ...]
    step: timedelta | None

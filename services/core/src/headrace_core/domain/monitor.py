"""The state of workers and queues, for people who watch them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

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

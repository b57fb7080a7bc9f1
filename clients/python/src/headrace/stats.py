"""How many jobs there are, and which types of jobs can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from headrace.job import JobState, RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """The jobs of a queue by state; `age` is how long its oldest QUEUED job has waited."""

    queue: str
    states: Mapping[JobState, int]
    age: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeStats:
    """The jobs of a type by state."""

    type: str
    states: Mapping[JobState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """All jobs by state, queue and type, as of `stats_time`. States without jobs are left out."""

    states: Mapping[JobState, int]
    queues: tuple[QueueStats, ...]
    types: tuple[TypeStats, ...]
    stats_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerInfo:
    """A type of job, as its live workers registered it; the schemas are JSON Schema."""

    type: str
    queue: str
    description: str
    payload_schema: Any
    result_schema: Any
    timeout: timedelta | None
    retry_policy: RetryPolicy
    live_workers: int

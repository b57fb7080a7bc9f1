"""Job counts, and the handlers of live workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from headrace.job import JobState, RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """The jobs of a queue by state; `age` is the waiting time of the oldest QUEUED job."""

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
    """All jobs by state, queue and type at `stats_time`, without states that have no jobs."""

    states: Mapping[JobState, int]
    queues: tuple[QueueStats, ...]
    types: tuple[TypeStats, ...]
    stats_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerInfo:
    """A job type, as its live workers registered it; both schemas are JSON Schema."""

    type: str
    queue: str
    description: str
    payload_schema: Any
    result_schema: Any
    timeout: timedelta | None
    retry_policy: RetryPolicy
    live_workers: int

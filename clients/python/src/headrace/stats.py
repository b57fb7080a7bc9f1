"""Job counts, and the handlers of live workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from headrace.job import JobState, RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """Job counts of a queue by state; `age` is the waiting time of the oldest QUEUED job."""

    queue: str
    states: Mapping[JobState, int]
    age: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeStats:
    """Job counts of a type by state."""

    type: str
    states: Mapping[JobState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Job counts by state, queue and type at `stats_time`; states without jobs are omitted."""

    states: Mapping[JobState, int]
    queues: tuple[QueueStats, ...]
    types: tuple[TypeStats, ...]
    stats_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerInfo:
    """A job type, as its live workers registered it; both schemas are JSON Schemas."""

    type: str
    queue: str
    description: str
    payload_schema: Any
    result_schema: Any
    timeout: timedelta | None
    retry_policy: RetryPolicy
    live_workers: int

"""Counts of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from headrace_core.domain.lifecycle import JobState


class JobCount(NamedTuple):
    """The number of jobs with the same queue, type and state."""

    queue: str
    type: str
    state: JobState
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The jobs of a tenant in numbers.

    Attributes:
        time: the time of the reading.
        counts: the number of jobs by queue, type and state.
        ages: for each queue with QUEUED jobs, the time that the oldest has waited.
    """

    time: datetime
    counts: Sequence[JobCount]
    ages: Mapping[str, timedelta]

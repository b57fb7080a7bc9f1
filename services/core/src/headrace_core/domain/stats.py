"""Job counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """The job counts and waiting times of a tenant.

    Attributes:
        time: the time of the measurement.
        counts: the number of jobs by queue, type and state.
        oldest: the time at which the oldest QUEUED job was queued, by queue.
    """

    time: datetime
    counts: Sequence[JobCount]
    oldest: Mapping[str, datetime]

    def age(self, queue: str) -> timedelta | None:
        """Return the waiting time of the oldest QUEUED job of a queue; None without such a job."""
        oldest = self.oldest.get(queue)
        return None if oldest is None else max(timedelta(), self.time - oldest)

    def by_state(self) -> Mapping[JobState, int]:
        """Return the number of jobs by state."""
        return _sum_by_state(self.counts)

    def by_queue(self) -> Mapping[str, Mapping[JobState, int]]:
        """Return the number of jobs by queue and state."""
        return _group_by(self.counts, lambda count: count.queue)

    def by_type(self) -> Mapping[str, Mapping[JobState, int]]:
        """Return the number of jobs by type and state."""
        return _group_by(self.counts, lambda count: count.type)


def _sum_by_state(counts: Iterable[JobCount]) -> Mapping[JobState, int]:
    total: Counter[JobState] = Counter()
    for count in counts:
        total[count.state] += count.jobs
    return total


def _group_by(
    counts: Iterable[JobCount], key: Callable[[JobCount], str]
) -> Mapping[str, Mapping[JobState, int]]:
    groups: dict[str, list[JobCount]] = {}
    for count in counts:
        groups.setdefault(key(count), []).append(count)
    return {name: _sum_by_state(group) for name, group in groups.items()}

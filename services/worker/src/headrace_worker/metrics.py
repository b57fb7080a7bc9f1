"""The metrics of a worker. `docs/metrics.md` says what they mean and what to alert on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace_core.domain.lifecycle import EventType
from headrace_core.runtime.metrics import registry_of
from headrace_core.store.sql.unreadable import UNREADABLE_ROWS

# How an attempt may end on a worker: each stands there from the start, so that its rate is known.
ENDS: Final = (
    EventType.SUCCEEDED,
    EventType.RETRY_SCHEDULED,
    EventType.FAILED,
    EventType.INTERRUPTED,
    EventType.WORKER_LOST,
    EventType.CANCELLED,
    EventType.EXPIRED,
)


@dataclass(slots=True)
class Counts:
    """What a worker has counted since its start.

    Attributes:
        ended: attempts that ended, by the event that was written.
        finishes_refused: ends that were not written, since the attempt was no longer this worker's.
        reports_refused: the same of progress and output.
        left_behind: handlers that did not end in their grace and were left to themselves.
        lease_losses: how often the lease was lost.
    """

    ended: Counter[EventType] = field(default_factory=Counter)
    finishes_refused: int = 0
    reports_refused: int = 0
    left_behind: int = 0
    lease_losses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What a worker is asked when somebody reads its metrics; each must be quick.

    Args:
        running: how many attempts run.
        slots: how many can.
        without_redis: whether jobs are claimed straight from PostgreSQL.
    """

    running: Callable[[], int]
    slots: int
    without_redis: Callable[[], bool]


def worker_metrics(counts: Counts, levels: Levels) -> CollectorRegistry:
    """What a worker tells of itself."""
    return registry_of(_Worker(counts, levels))


class _Worker(Collector):
    def __init__(self, counts: Counts, levels: Levels) -> None:
        self._counts = counts
        self._levels = levels

    def collect(self) -> Iterator[Metric]:
        counts, levels = self._counts, self._levels
        ended = CounterMetricFamily(
            "headrace_attempts_ended", "Attempts that ended, by how.", labels=["event"]
        )
        for event in ENDS:
            ended.add_metric([str(event)], counts.ended[event])
        yield ended
        refused = CounterMetricFamily(
            "headrace_writes_refused",
            "What attempts said that were no longer this worker's.",
            labels=["write"],
        )
        refused.add_metric(["finish"], counts.finishes_refused)
        refused.add_metric(["report"], counts.reports_refused)
        yield refused
        yield CounterMetricFamily(
            "headrace_handlers_left_behind",
            "Handlers that did not end in their grace and were left to themselves.",
            value=counts.left_behind,
        )
        yield CounterMetricFamily(
            "headrace_lease_losses", "How often the lease was lost.", value=counts.lease_losses
        )
        yield CounterMetricFamily(
            "headrace_unreadable_rows",
            "Reads of stored rows that have an unreadable field.",
            value=UNREADABLE_ROWS.total,
        )
        yield GaugeMetricFamily(
            "headrace_attempts_running", "Attempts that run now.", value=levels.running()
        )
        yield GaugeMetricFamily("headrace_slots", "Attempts that can run.", value=levels.slots)
        yield GaugeMetricFamily(
            "headrace_redis_fallback",
            "Whether jobs are claimed straight from PostgreSQL, as Redis is gone.",
            value=levels.without_redis(),
        )

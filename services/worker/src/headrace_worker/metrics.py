"""The metrics of a worker. `docs/metrics.md` explains them and suggests alerts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace_core.domain.lifecycle import EventType
from headrace_core.runtime.loop import LoopRecords
from headrace_core.runtime.metrics import LoopMetrics, registry_of
from headrace_core.runtime.tracing import SpanMetrics, Tracing
from headrace_core.store.sql.unreadable import UNREADABLE_ROWS
from headrace_health import ServiceMetrics

# The ends of attempts. Each has a sample from the start, so Prometheus can compute its rate.
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
    """The counts of a worker since its start.

    Attributes:
        ended: the ended attempts, by written event.
        ends_refused: the ends that were not written, because the worker no longer had the attempt.
        reports_refused: the reports that were not written, for the same reason.
        left_behind: the handlers that did not end within their grace period, so the worker
            abandoned them.
        lease_losses: the number of times that the worker lost its lease.
    """

    ended: Counter[EventType] = field(default_factory=Counter)
    ends_refused: int = 0
    reports_refused: int = 0
    left_behind: int = 0
    lease_losses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The state of a worker when Prometheus scrapes it.

    Args:
        running: returns the number of attempts in flight without blocking.
        slots: the number of slots.
        without_redis: returns whether the worker claims directly from PostgreSQL, without blocking.
    """

    running: Callable[[], int]
    slots: int
    without_redis: Callable[[], bool]


def worker_metrics(
    counts: Counts,
    levels: Levels,
    records: LoopRecords,
    service: ServiceMetrics,
    tracing: Tracing | None,
) -> CollectorRegistry:
    """Return the metrics of a worker.

    Args:
        counts: the counts of the worker.
        levels: the state of the worker.
        records: the records of its loops.
        service: its health and its certificate.
        tracing: its spans; None if it writes none.
    """
    return registry_of(
        _WorkerCollector(counts, levels), LoopMetrics(records), service, SpanMetrics(tracing)
    )


class _WorkerCollector(Collector):
    def __init__(self, counts: Counts, levels: Levels) -> None:
        self._counts = counts
        self._levels = levels

    def collect(self) -> Iterator[Metric]:
        counts, levels = self._counts, self._levels
        ended = CounterMetricFamily(
            "headrace_attempts_ended", "Ended attempts, by event.", labels=["event"]
        )
        for event in ENDS:
            ended.add_metric([str(event)], counts.ended[event])
        yield ended
        refused = CounterMetricFamily(
            "headrace_writes_refused",
            "Refused ends and reports, whose attempt no longer belonged to this worker.",
            labels=["write"],
        )
        refused.add_metric(["finish"], counts.ends_refused)
        refused.add_metric(["report"], counts.reports_refused)
        yield refused
        yield CounterMetricFamily(
            "headrace_handlers_left_behind",
            "Handlers that did not end within their grace period.",
            value=counts.left_behind,
        )
        yield CounterMetricFamily(
            "headrace_lease_losses",
            "Number of times that this worker lost its lease.",
            value=counts.lease_losses,
        )
        yield CounterMetricFamily(
            "headrace_unreadable_rows",
            "Reads of stored rows with an unreadable field.",
            value=UNREADABLE_ROWS.total,
        )
        yield GaugeMetricFamily(
            "headrace_attempts_running", "Running attempts.", value=levels.running()
        )
        yield GaugeMetricFamily("headrace_slots", "Slots for attempts.", value=levels.slots)
        yield GaugeMetricFamily(
            "headrace_redis_fallback",
            "1 while the worker claims directly from PostgreSQL because Redis is unavailable.",
            value=levels.without_redis(),
        )

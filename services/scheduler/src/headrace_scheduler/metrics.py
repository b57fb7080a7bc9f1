"""The metrics of a scheduler. `docs/metrics.md` says what they mean and what to alert on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace_core.runtime.metrics import registry_of


@dataclass(slots=True)
class Gauges:
    """Plain numbers; a collector serves them.

    Attributes:
        leading: whether it leads.
        term: its newest term; 0 before it has led.
        stale_writes: how many of its statements were refused, as its term was over.
        taken_back: jobs that it has taken back from lost workers.
        pruned: jobs that it has pruned.
    """

    leading: bool = False
    term: int = 0
    stale_writes: int = 0
    taken_back: int = 0
    pruned: int = 0


def scheduler_metrics(gauges: Gauges) -> CollectorRegistry:
    """What a scheduler tells of itself.

    Args:
        gauges: its numbers.
    """
    return registry_of(_Scheduler(gauges))


class _Scheduler(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        gauges = self._gauges
        yield GaugeMetricFamily("headrace_leading", "Whether it leads.", value=gauges.leading)
        yield GaugeMetricFamily("headrace_leader_term", "Its newest term.", value=gauges.term)
        yield CounterMetricFamily(
            "headrace_stale_writes_refused",
            "Statements that were refused since its term was over.",
            value=gauges.stale_writes,
        )
        yield CounterMetricFamily(
            "headrace_jobs_taken_back",
            "Jobs that were taken back from lost workers.",
            value=gauges.taken_back,
        )
        yield CounterMetricFamily(
            "headrace_jobs_pruned",
            "Jobs that were removed since they had ended longer ago than they are kept.",
            value=gauges.pruned,
        )

"""The metrics of a scheduler; `docs/metrics.md` describes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace_core.domain.tenant import Quota
from headrace_core.runtime.loop import LoopRecords
from headrace_core.runtime.metrics import LoopMetrics, registry_of
from headrace_core.store.jobs.depths import QueueDepth
from headrace_health import ServiceMetrics


class TenantUsage(NamedTuple):
    """The part of a quota that a tenant uses."""

    tenant: str
    quota: Quota
    used: int
    limit: int


@dataclass(slots=True)
class Gauges:
    """The numbers that a scheduler reports as metrics.

    Attributes:
        leading: True if the scheduler leads.
        term: the newest term; 0 before the first term.
        stale_writes: statements that were refused because the term was over.
        recovered: jobs recovered from lost workers.
        pruned: jobs removed after their retention.
        deleted: jobs removed with their tenants.
        usage: the usage of tenants with quotas; empty unless the scheduler leads.
        queues: the depths of the queues; empty unless the scheduler leads.
    """

    leading: bool = False
    term: int = 0
    stale_writes: int = 0
    recovered: int = 0
    pruned: int = 0
    deleted: int = 0
    usage: Sequence[TenantUsage] = ()
    queues: Sequence[QueueDepth] = ()


def scheduler_metrics(
    gauges: Gauges, records: LoopRecords, service: ServiceMetrics
) -> CollectorRegistry:
    """Return the metrics of a scheduler.

    Args:
        gauges: the gauges of the scheduler.
        records: the records of its loops.
        service: its health and its certificate.
    """
    return registry_of(_SchedulerCollector(gauges), LoopMetrics(records), service)


class _SchedulerCollector(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        gauges = self._gauges
        yield GaugeMetricFamily(
            "headrace_leading", "1 if this scheduler leads, otherwise 0.", value=gauges.leading
        )
        yield GaugeMetricFamily(
            "headrace_leader_term", "The newest term of this scheduler.", value=gauges.term
        )
        yield CounterMetricFamily(
            "headrace_stale_writes_refused",
            "Statements that were refused because the term was over.",
            value=gauges.stale_writes,
        )
        yield CounterMetricFamily(
            "headrace_jobs_taken_back",
            "Jobs recovered from lost workers.",
            value=gauges.recovered,
        )
        yield CounterMetricFamily(
            "headrace_jobs_pruned",
            "Jobs removed after their retention.",
            value=gauges.pruned,
        )
        yield CounterMetricFamily(
            "headrace_tenant_jobs_deleted",
            "Jobs removed with their tenants.",
            value=gauges.deleted,
        )
        labels = ["tenant", "quota"]
        used = GaugeMetricFamily(
            "headrace_tenant_usage", "The part of a quota that a tenant uses.", labels=labels
        )
        limit = GaugeMetricFamily("headrace_tenant_quota", "A quota of a tenant.", labels=labels)
        for entry in gauges.usage:
            used.add_metric([entry.tenant, entry.quota], entry.used)
            limit.add_metric([entry.tenant, entry.quota], entry.limit)
        yield from (used, limit)
        jobs = GaugeMetricFamily(
            "headrace_queue_jobs",
            "Jobs by queue and state; an empty queue stands for queues that no worker names.",
            labels=["queue", "state"],
        )
        age = GaugeMetricFamily(
            "headrace_queue_oldest_job_age_seconds",
            "Time since the oldest QUEUED job was queued, in seconds; 0 without a job.",
            labels=["queue"],
        )
        for depth in gauges.queues:
            jobs.add_metric([depth.queue, "queued"], depth.queued)
            jobs.add_metric([depth.queue, "running"], depth.running)
            age.add_metric([depth.queue], depth.oldest_age)
        yield from (jobs, age)

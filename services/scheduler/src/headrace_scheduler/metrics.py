"""The metrics of a scheduler; `docs/metrics.md` describes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from headrace_core.domain.durations import BUCKETS_PER_DOUBLING, middle
from headrace_core.domain.tenant import Quota
from headrace_core.runtime.loop import LoopRecords
from headrace_core.runtime.metrics import LoopMetrics, registry_of
from headrace_core.store.history import JobDurations
from headrace_core.store.jobs.depths import QueueDepth
from headrace_health import ServiceMetrics


class TenantUsage(NamedTuple):
    """The part of a quota that a tenant uses."""

    tenant: str
    quota: Quota
    used: int
    limit: int


# The upper limits of the exported buckets, 1 ms to 4.7 hours; each is a limit of a stored bucket.
_LIMITS: Final = range(0, 8 * 13, 8)
# The maximum number of types with durations of their own; later types share the empty name.
_MAX_TYPES: Final = 200


class Durations:
    """The waits and runs of jobs that this scheduler has added to the history since its start."""

    def __init__(self) -> None:
        self._by_job: dict[tuple[str, str], JobDurations] = {}
        self._types: set[str] = set()

    def add(self, durations: Mapping[tuple[str, str], JobDurations]) -> None:
        """Count durations, by queue and type."""
        for (queue, job_type), added in durations.items():
            if len(self._types) < _MAX_TYPES:
                self._types.add(job_type)
            key = (queue, job_type if job_type in self._types else "")
            known = self._by_job.setdefault(key, JobDurations(Counter(), Counter()))
            known.waits.update(added.waits)
            known.runs.update(added.runs)

    def collect(self, queues: Collection[str]) -> Iterator[Metric]:
        """Yield the histograms.

        Args:
            queues: the queues with durations of their own; the others share the empty name,
                because clients can choose any queue.
        """
        waits = HistogramMetricFamily(
            "headrace_job_wait_seconds",
            "Time from the queueing of a job to the start of its attempt, in seconds.",
            labels=["queue", "type"],
        )
        runs = HistogramMetricFamily(
            "headrace_attempt_run_seconds",
            "Time from the start of an attempt to its end, in seconds.",
            labels=["queue", "type"],
        )
        merged: dict[tuple[str, str], JobDurations] = {}
        for (queue, job_type), known in list(self._by_job.items()):
            key = (queue if queue in queues else "", job_type)
            found = merged.setdefault(key, JobDurations(Counter(), Counter()))
            # A copy is atomic: the event loop's thread cannot interrupt it.
            found.waits.update(known.waits.copy())
            found.runs.update(known.runs.copy())
        for labels, found in merged.items():
            _add_histogram(waits, labels, found.waits)
            _add_histogram(runs, labels, found.runs)
        yield from (waits, runs)


def _add_histogram(
    family: HistogramMetricFamily, labels: tuple[str, str], counts: Counter[int]
) -> None:
    if not counts:
        return
    buckets = []
    for limit in _LIMITS:
        below = sum(count for bucket, count in counts.items() if bucket <= limit)
        buckets.append((f"{2 ** (limit / BUCKETS_PER_DOUBLING) / 1000:g}", below))
    buckets.append(("+Inf", counts.total()))
    total = sum(middle(bucket) * count for bucket, count in counts.items())
    family.add_metric(labels, buckets=buckets, sum_value=total)


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
        durations: the waits and runs of jobs.
    """

    leading: bool = False
    term: int = 0
    stale_writes: int = 0
    recovered: int = 0
    pruned: int = 0
    deleted: int = 0
    usage: Sequence[TenantUsage] = ()
    queues: Sequence[QueueDepth] = ()
    durations: Durations = field(default_factory=Durations, compare=False)


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
        yield from gauges.durations.collect({depth.queue for depth in gauges.queues})

"""The metrics of a gateway; `docs/metrics.md` describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from headrace_core.runtime.loop import LoopRecords
from headrace_core.runtime.metrics import LoopMetrics, registry_of
from headrace_core.runtime.tracing import SpanMetrics, Tracing
from headrace_core.store.sql.unreadable import UNREADABLE_ROWS
from headrace_gateway.access.audit_writer import AuditWriter
from headrace_gateway.access.quotas import TenantQuotas
from headrace_gateway.calls.meter import Meter
from headrace_gateway.floods import FloodGuard
from headrace_gateway.streams import Gauges, Watch
from headrace_health import ServiceMetrics

_Read = Callable[[Gauges], float]

_GAUGES: Final[dict[str, tuple[str, _Read]]] = {
    "headrace_settled_lag_seconds": (
        "Time the oldest unsettled event has waited for an open transaction, in seconds.",
        lambda gauges: gauges.settled_lag,
    ),
    "headrace_open_transaction_seconds": (
        "Time the oldest open transaction has delayed streams of many jobs, in seconds.",
        lambda gauges: gauges.delay,
    ),
    "headrace_overviews": (
        "Running computations of overviews, one per watched tenant and scope.",
        lambda gauges: gauges.overview_computations,
    ),
    "headrace_tail_last_look_seconds": (
        "Time since the tail last read the log, in seconds.",
        lambda gauges: gauges.since_last_run,
    ),
}

# prometheus_client appends _total to these names.
_COUNTERS: Final[dict[str, tuple[str, _Read]]] = {
    "headrace_stream_resumes": (
        "Streams that resumed after a cursor or a known event.",
        lambda gauges: gauges.resumes,
    ),
    "headrace_stream_catch_ups": (
        "Overflows of a stream's queue, after which it continued from PostgreSQL.",
        lambda gauges: gauges.catch_ups,
    ),
    "headrace_stream_slow_consumers": (
        "Streams that ended because their client stopped reading.",
        lambda gauges: gauges.slow_consumers,
    ),
    "headrace_stream_resets": (
        "Calls that were reset because their client did not read the status.",
        lambda gauges: gauges.resets,
    ),
    "headrace_stream_cursors_expired": (
        "Streams that were rejected because events after their cursor were pruned.",
        lambda gauges: gauges.cursors_expired,
    ),
    "headrace_stream_gaps": (
        "Events of a job that arrived without their predecessor.",
        lambda gauges: gauges.gaps,
    ),
    "headrace_tail_looks": ("Runs of the tail.", lambda gauges: gauges.runs),
    "headrace_tail_events": ("Events read from the log.", lambda gauges: gauges.events),
    "headrace_tail_failures": ("Failed runs of the tail.", lambda gauges: gauges.failures),
}


def gateway_metrics(
    *,
    watch: Watch,
    records: LoopRecords,
    audit: AuditWriter | None,
    quotas: TenantQuotas,
    floods: FloodGuard,
    meter: Meter,
    service: ServiceMetrics,
    tracing: Tracing | None,
) -> CollectorRegistry:
    """Return the gateway's metrics.

    Args:
        watch: the streams.
        records: the records of the gateway's loops.
        audit: the writer of the audit log; None if access control is off.
        quotas: the quotas of the tenants. Only tenants with a quota have metrics, and only the
            platform names tenants.
        floods: closes connections that send much without calls.
        meter: measures the calls.
        service: the gateway's health and its certificate.
        tracing: the spans of the gateway; None if it writes none.
    """
    return registry_of(
        _StreamMetrics(watch),
        LoopMetrics(records),
        _AuditMetrics(audit),
        _QuotaMetrics(quotas),
        _FloodMetrics(floods),
        _CallMetrics(meter),
        service,
        SpanMetrics(tracing),
    )


class _AuditMetrics(Collector):
    def __init__(self, audit: AuditWriter | None) -> None:
        self._audit = audit

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "headrace_audit_events_dropped",
            "Denied calls and payload reads that the audit log does not contain.",
            value=0 if self._audit is None else self._audit.dropped,
        )


class _CallMetrics(Collector):
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        labels = ["method", "code"]
        times = HistogramMetricFamily(
            "headrace_rpc_duration_seconds", "Time of unary calls, in seconds.", labels=labels
        )
        # The copy is atomic: the event loop's thread cannot interrupt it.
        for key, found in self._meter.unary.copy().items():
            times.add_metric(key, buckets=found.buckets(), sum_value=found.total)
        yield times
        streams = CounterMetricFamily("headrace_rpc_streams_ended", "Ended streams.", labels=labels)
        for key, count in self._meter.streams.copy().items():
            streams.add_metric(key, count)
        yield streams


class _FloodMetrics(Collector):
    def __init__(self, floods: FloodGuard) -> None:
        self._floods = floods

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "headrace_flooding_connections_closed",
            "Connections that were closed because they sent much without calls.",
            value=self._floods.closed,
        )


class _QuotaMetrics(Collector):
    def __init__(self, quotas: TenantQuotas) -> None:
        self._quotas = quotas

    def collect(self) -> Iterator[Metric]:
        rejections = CounterMetricFamily(
            "headrace_quota_refusals",
            "Calls that were rejected because a quota of their tenant is used up.",
            labels=["tenant", "quota"],
        )
        for (tenant, quota), count in self._quotas.rejections.copy().items():
            rejections.add_metric([tenant, quota], count)
        yield rejections
        streams = GaugeMetricFamily(
            "headrace_tenant_streams",
            "Open streams of a tenant with a quota of streams.",
            labels=["tenant"],
        )
        for tenant, count in self._quotas.streams_by_tenant().items():
            streams.add_metric([tenant], count)
        yield streams


class _StreamMetrics(Collector):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        gauges = self._watch.gauges
        yield HistogramMetricFamily(
            "headrace_stream_commit_to_sent_seconds",
            "Age of live events when a stream sent them, in seconds.",
            buckets=gauges.sent.buckets(),
            sum_value=gauges.sent.total,
        )
        streams = GaugeMetricFamily("headrace_streams", "Open streams.", labels=["kind"])
        streams.add_metric(["job"], gauges.job_streams)
        # A subscription stream is counted before it opens its mailbox.
        jobs = max(0, gauges.filter_streams - gauges.subscription_streams)
        streams.add_metric(["jobs"], jobs)
        streams.add_metric(["subscription"], gauges.subscription_streams)
        streams.add_metric(["standby"], gauges.standby_streams)
        streams.add_metric(["overview"], gauges.overview_streams)
        yield streams
        yield GaugeMetricFamily(
            "headrace_stream_lag_seconds",
            "Age of the oldest routed event that a stream has not sent.",
            value=self._watch.lag,
        )
        for name, (text, read) in _GAUGES.items():
            yield GaugeMetricFamily(name, text, value=read(gauges))
        for name, (text, read) in _COUNTERS.items():
            yield CounterMetricFamily(name, text, value=read(gauges))
        yield CounterMetricFamily(
            "headrace_unreadable_rows",
            "Reads of stored rows with an unreadable field.",
            value=UNREADABLE_ROWS.total,
        )

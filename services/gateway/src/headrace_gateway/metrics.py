"""The metrics of a gateway. `docs/metrics.md` says what they mean and what to alert on."""

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

from headrace_core.runtime.metrics import registry_of
from headrace_core.store.sql.unreadable import UNREADABLE_ROWS
from headrace_gateway.streams import Gauges, Watch
from headrace_gateway.streams.gauges import BOUNDS

_Read = Callable[[Gauges], float]

_LEVELS: Final[dict[str, tuple[str, _Read]]] = {
    "headrace_settled_lag_seconds": (
        "For how long an event has been waiting for an open transaction.",
        lambda gauges: gauges.settled_lag,
    ),
    "headrace_open_transaction_seconds": (
        "For how long the oldest open transaction has been holding up streams of many jobs.",
        lambda gauges: gauges.held_up,
    ),
    "headrace_tail_last_look_seconds": (
        "How long ago the log was looked at.",
        lambda gauges: gauges.unseen,
    ),
}

# Their names end with _total.
_COUNTS: Final[dict[str, tuple[str, _Read]]] = {
    "headrace_stream_resumes": (
        "Streams that began behind a cursor or an event.",
        lambda gauges: gauges.resumes,
    ),
    "headrace_stream_catch_ups": (
        "How often a stream fell behind its queue and went on from PostgreSQL.",
        lambda gauges: gauges.catch_ups,
    ),
    "headrace_stream_slow_consumers": (
        "Streams that were ended because nobody read them.",
        lambda gauges: gauges.slow_consumers,
    ),
    "headrace_stream_resets": (
        "Calls that were reset because not even their end was read.",
        lambda gauges: gauges.resets,
    ),
    "headrace_stream_cursors_expired": (
        "Streams that were refused because their cursor is older than what is kept.",
        lambda gauges: gauges.cursors_expired,
    ),
    "headrace_stream_gaps": (
        "How often an event of a job came without the one before it.",
        lambda gauges: gauges.gaps,
    ),
    "headrace_tail_looks": ("Looks at the log.", lambda gauges: gauges.looks),
    "headrace_tail_events": ("Events read from the log.", lambda gauges: gauges.events),
    "headrace_tail_failures": ("Looks at the log that failed.", lambda gauges: gauges.failures),
}


def stream_metrics(watch: Watch) -> CollectorRegistry:
    """What the streams of a gateway tell of themselves.

    Args:
        watch: the streams.
    """
    return registry_of(_Streams(watch))


class _Streams(Collector):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        gauges = self._watch.gauges
        bounds = [*map(str, BOUNDS), "+Inf"]
        yield HistogramMetricFamily(
            "headrace_stream_commit_to_sent_seconds",
            "How old live events were when a stream had sent them.",
            buckets=list(zip(bounds, gauges.sent.cumulated(), strict=True)),
            sum_value=gauges.sent.total,
        )
        streams = GaugeMetricFamily("headrace_streams", "Open streams.", labels=["kind"])
        streams.add_metric(["job"], gauges.job_streams)
        # One of a subscription is counted a moment before it has its mailbox.
        jobs = max(0, gauges.filter_streams - gauges.subscription_streams)
        streams.add_metric(["jobs"], jobs)
        streams.add_metric(["subscription"], gauges.subscription_streams)
        streams.add_metric(["standby"], gauges.standby_streams)
        yield streams
        yield GaugeMetricFamily(
            "headrace_stream_lag_seconds",
            "The age of the oldest event that a stream was handed and has not sent.",
            value=self._watch.lag,
        )
        for name, (text, read) in _LEVELS.items():
            yield GaugeMetricFamily(name, text, value=read(gauges))
        for name, (text, read) in _COUNTS.items():
            yield CounterMetricFamily(name, text, value=read(gauges))
        yield CounterMetricFamily(
            "headrace_unreadable_rows",
            "Reads of stored rows that have an unreadable field.",
            value=UNREADABLE_ROWS.total,
        )

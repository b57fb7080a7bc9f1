"""The metrics of the web service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace_core.runtime.metrics import registry_of
from headrace_health import ServiceMetrics


@dataclass(slots=True)
class CountedRequest:
    """A request that is being counted.

    Attributes:
        status: the HTTP status of its response; 0 without a response.
    """

    status: int = 0


class Requests:
    """Counts requests."""

    def __init__(self) -> None:
        self.by_status: Counter[int] = Counter()
        self.open = 0

    @contextmanager
    def count(self) -> Iterator[CountedRequest]:
        """Count a request; set its status before the end."""
        request = CountedRequest()
        self.open += 1
        try:
            yield request
        finally:
            self.open -= 1
            self.by_status[request.status] += 1


class _WebMetrics(Collector):
    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        total = CounterMetricFamily(
            "headrace_web_requests",
            "HTTP requests that have ended, by status. Status 0: the client left first.",
            labels=["status"],
        )
        for status, count in sorted(self._requests.by_status.copy().items()):
            total.add_metric([str(status)], count)
        yield total
        yield GaugeMetricFamily(
            "headrace_web_open_requests",
            "HTTP requests that have not ended, including streams.",
            value=self._requests.open,
        )


def web_metrics(requests: Requests, service: ServiceMetrics) -> CollectorRegistry:
    """Return the metrics of the web service.

    Args:
        requests: the requests.
        service: its health and its certificate.
    """
    return registry_of(_WebMetrics(requests), service)

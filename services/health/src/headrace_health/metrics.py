"""Metrics that all services have: their health, and the end of their certificate."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace_health.health import Health
from headrace_health.tls import CertificateFiles


class ServiceMetrics(Collector):
    """The metrics of a service.

    Args:
        health: the health of the service.
        certificate: its certificate; None for no TLS.
    """

    def __init__(self, *, health: Health, certificate: CertificateFiles | None) -> None:
        self._health = health
        self._certificate = certificate

    def collect(self) -> Iterator[Metric]:
        """Yield the health, the state of each dependency, and the end of the certificate."""
        yield GaugeMetricFamily(
            "headrace_serving", "1 while the service is SERVING.", value=self._health.serving
        )
        dependencies = GaugeMetricFamily(
            "headrace_dependency_available",
            "1 while the last check of a dependency has passed.",
            labels=["dependency"],
        )
        for name, available in self._health.dependencies():
            dependencies.add_metric([name], available)
        yield dependencies
        if self._certificate is not None:
            yield GaugeMetricFamily(
                "headrace_certificate_expire_timestamp_seconds",
                "Time at which the first certificate of the chain expires, in seconds since 1970.",
                value=self._certificate.expire_time,
            )

"""grpc.health.v1 for Headrace's services, with the state of their dependencies.

`python -m headrace_health probe HOST:PORT` checks a service from outside.
"""

from headrace_health.health import Check, Health
from headrace_health.lookup import Lookup
from headrace_health.metrics import ServiceMetrics
from headrace_health.reflection import Reflection, enable_reflection, reflections
from headrace_health.server import HealthServer, keep_completion_queue
from headrace_health.servicer import HealthServicer
from headrace_health.tls import CertificateFiles, add_port, metrics_context

__all__ = [
    "CertificateFiles",
    "Check",
    "Health",
    "HealthServer",
    "HealthServicer",
    "Lookup",
    "Reflection",
    "ServiceMetrics",
    "add_port",
    "enable_reflection",
    "keep_completion_queue",
    "metrics_context",
    "reflections",
]

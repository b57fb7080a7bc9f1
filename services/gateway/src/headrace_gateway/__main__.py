"""`python -m headrace_gateway`."""

from __future__ import annotations

import sys

from headrace_core.runtime.command_line import SERVERS, service_parser
from headrace_core.runtime.process import run_service
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tracing import start_tracing
from headrace_gateway.service import Gateway

_SETTINGS = {
    **SERVERS,
    "gateway_address": "host:port of the API",
    "gateway_metrics_address": "host:port of the Prometheus metrics",
    "tls_cert": "PEM file with the certificate of the API; empty for no TLS",
    "tls_key": "PEM file with the key of that certificate",
    "access_control": "whether each call needs a credential",
    "allow_insecure": "whether addresses beyond loopback need neither TLS nor access control",
    "reflection": "whether grpcurl and similar tools can read the contract",
    "max_payload_bytes": "the maximum size of a job's payload, in bytes",
}
_EXAMPLES = (
    "python -m headrace_gateway",
    "HEADRACE_GATEWAY_ADDRESS=127.0.0.1:6000 HEADRACE_REFLECTION=true python -m headrace_gateway",
)


def _create(settings: Settings) -> Gateway:
    return Gateway(settings, tracing=start_tracing("gateway"))


if __name__ == "__main__":
    service_parser(
        "headrace_gateway",
        description="Serve Headrace's gRPC API. It runs until SIGTERM or SIGINT.",
        settings=_SETTINGS,
        examples=_EXAMPLES,
    ).parse_args()
    sys.exit(run_service("gateway", _create))

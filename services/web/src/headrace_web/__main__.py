"""`python -m headrace_web`."""

from __future__ import annotations

import sys

from headrace_core.runtime.command_line import service_parser
from headrace_core.runtime.process import run_service
from headrace_web.service import Web

_SETTINGS = {
    "web_address": "host:port of the HTTP server",
    "web_metrics_address": "host:port of the Prometheus metrics",
    "web_public_url": "URL under which browsers reach the server",
    "web_origins": "other origins whose pages may call the server, separated by commas",
    "tls_cert": "PEM file with the certificate of the server; empty for no TLS",
    "tls_key": "PEM file with the key of that certificate",
    "allow_insecure": "whether addresses beyond loopback need neither TLS nor access control",
    "log_format": "json or console",
    "log_level": "debug, info, warning or error",
}
_EXAMPLES = (
    "python -m headrace_web",
    "HEADRACE_TARGET=gateway:50051 HEADRACE_WEB_ADDRESS=127.0.0.1:8000 python -m headrace_web",
)

if __name__ == "__main__":
    service_parser(
        "headrace_web",
        description="Serve Headrace over HTTP, as a client of the gateway at HEADRACE_TARGET. "
        "The service runs until SIGTERM or SIGINT.",
        settings=_SETTINGS,
        examples=_EXAMPLES,
    ).parse_args()
    sys.exit(run_service("web", Web))

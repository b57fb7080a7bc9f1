"""The entry point of `python -m headrace_scheduler`."""

from __future__ import annotations

import sys

from headrace_core.runtime.command_line import SERVERS, service_parser
from headrace_core.runtime.process import run_service
from headrace_scheduler.service import Scheduler

_SETTINGS = {
    **SERVERS,
    "scheduler_address": "host:port of the health service",
    "scheduler_metrics_address": "host:port of the Prometheus metrics",
    "retention": "seconds to keep a job after its end",
    "dispatch_prefetch": "deliveries per worker beyond its free slots",
}
_EXAMPLES = (
    "python -m headrace_scheduler",
    "HEADRACE_SCHEDULER_ADDRESS=127.0.0.1:6001 python -m headrace_scheduler",
)

if __name__ == "__main__":
    service_parser(
        "headrace_scheduler",
        description="Dispatch Headrace jobs to workers as the leader, or wait as a standby. "
        "The scheduler runs until SIGTERM or SIGINT.",
        settings=_SETTINGS,
        examples=_EXAMPLES,
    ).parse_args()
    sys.exit(run_service("scheduler", Scheduler))

"""`python -m headrace_worker`."""

from __future__ import annotations

import os
import sys

# Without this, gRPC prints a warning whenever a handler process starts.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from headrace_core.runtime import logs
from headrace_core.runtime.command_line import SERVERS, service_parser
from headrace_core.runtime.process import run_service
from headrace_core.runtime.settings import Settings
from headrace_worker.api.loading import load_handlers
from headrace_worker.runners.children import (
    end_children,
    end_forks_of_the_loop,
    keep_signals_from_forks,
)
from headrace_worker.runners.handler_logs import HandlerLines
from headrace_worker.runners.ownership import OwnedTask, own_process
from headrace_worker.service import WorkerService

_SETTINGS = {
    **SERVERS,
    "handlers": "modules with your handlers, separated by commas",
    "builtin_handlers": "true, false, or the built-in handlers to offer, separated by commas",
    "worker_slots": "attempts that run at the same time",
    "worker_queues": "queues to serve, separated by commas; empty: all",
    "worker_address": "host:port of the health service",
    "worker_metrics_address": "host:port of the metrics for Prometheus",
    "shutdown_grace": "seconds that running attempts have to end when the worker stops",
}
_EXAMPLES = (
    "python -m headrace_worker",
    "HEADRACE_HANDLERS=handlers PYTHONPATH=examples python -m headrace_worker",
)


class _Worker(WorkerService):
    """A worker that owns its process, so all child processes belong to handlers."""

    async def stop(self) -> None:
        try:
            await super().stop()
        finally:
            end_children()


def _create(settings: Settings) -> WorkerService:
    set_up = logs.configure(settings, service="worker", foreign=HandlerLines())
    handlers = load_handlers(settings.handlers, builtins=settings.builtins)
    # A module with handlers may have changed the logging configuration.
    set_up()
    return _Worker(settings, handlers)


if __name__ == "__main__":
    service_parser(
        "headrace_worker",
        description="Run Headrace's jobs with the handlers of this environment. "
        "It runs until SIGTERM or SIGINT.",
        settings=_SETTINGS,
        examples=_EXAMPLES,
    ).parse_args()
    own_process()
    keep_signals_from_forks()
    end_forks_of_the_loop()
    sys.exit(run_service("worker", _create, task_factory=OwnedTask))

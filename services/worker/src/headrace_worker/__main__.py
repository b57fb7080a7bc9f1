"""The entry point of `python -m headrace_worker`."""

from __future__ import annotations

import os
import sys

# Without this, gRPC prints a warning whenever a handler process starts.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from headrace_core.runtime import logs
from headrace_core.runtime.command_line import SERVERS, service_parser
from headrace_core.runtime.process import run_service
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tracing import start_tracing
from headrace_worker.api.loading import load_handlers
from headrace_worker.runners.children import (
    end_children,
    end_forks_of_loop,
    keep_signals_from_forks,
)
from headrace_worker.runners.handler_logs import HandlerLines
from headrace_worker.runners.ownership import OwnedTask, own_process
from headrace_worker.service import WorkerService

_SETTINGS = {
    **SERVERS,
    "handlers": "comma-separated modules that contain your handlers",
    "builtin_handlers": "true, false, or a comma-separated list of built-in handlers",
    "worker_slots": "maximum number of concurrent attempts",
    "worker_queues": "comma-separated queues to serve; empty for all",
    "worker_address": "host:port of the health service",
    "worker_metrics_address": "host:port of the Prometheus metrics",
    "shutdown_grace": "seconds to wait for running attempts when the worker stops",
}
_EXAMPLES = (
    "python -m headrace_worker",
    "HEADRACE_HANDLERS=handlers PYTHONPATH=examples python -m headrace_worker",
)


class _Worker(WorkerService):
    """A worker in its own process, in which all child processes belong to handlers."""

    async def stop(self) -> None:
        try:
            await super().stop()
        finally:
            end_children()


def _create(settings: Settings) -> WorkerService:
    set_up = logs.configure(settings, service="worker", foreign=HandlerLines.of(settings))
    handlers = load_handlers(settings.handlers, builtins=settings.builtins)
    # A handler module may have changed the logging configuration.
    set_up()
    return _Worker(settings, handlers, tracing=start_tracing("worker"))


if __name__ == "__main__":
    service_parser(
        "headrace_worker",
        description="Run Headrace jobs with the handlers installed in this environment. "
        "The worker runs until SIGTERM or SIGINT.",
        settings=_SETTINGS,
        examples=_EXAMPLES,
    ).parse_args()
    own_process()
    keep_signals_from_forks()
    end_forks_of_loop()
    sys.exit(run_service("worker", _create, task_factory=OwnedTask))

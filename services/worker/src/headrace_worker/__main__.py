"""`python -m headrace_worker`."""

from __future__ import annotations

import os
import sys

# gRPC warns at every start of a handler's process otherwise; nothing of gRPC is used in those.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from headrace_core.process import run_service
from headrace_core.settings import Settings
from headrace_worker.ownership import OwnedTask, own_process
from headrace_worker.registry import load_handlers
from headrace_worker.service import WorkerService


def _create(settings: Settings) -> WorkerService:
    return WorkerService(settings, load_handlers(settings.handlers))


if __name__ == "__main__":
    own_process()
    sys.exit(run_service("worker", _create, task_factory=OwnedTask))

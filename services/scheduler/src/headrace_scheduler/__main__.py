"""`python -m headrace_scheduler`."""

from __future__ import annotations

import sys

from headrace_core.process import run_service
from headrace_scheduler.service import Scheduler

if __name__ == "__main__":
    sys.exit(run_service("scheduler", Scheduler))

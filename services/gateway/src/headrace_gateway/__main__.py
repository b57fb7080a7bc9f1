"""`python -m headrace_gateway`."""

from __future__ import annotations

import sys

from headrace_core.process import run_service
from headrace_gateway.server import Gateway

if __name__ == "__main__":
    sys.exit(run_service("gateway", Gateway))

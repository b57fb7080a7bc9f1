"""`python bench/streams`: measure the latency and the cost of the status streams.

The program starts a PostgreSQL, a Valkey and a gateway, and the load in separate processes. See
docs/benchmarks.md for the figures and the method.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Import from the repository root, not from this folder.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from bench.streams.command import main  # noqa: E402 - needs the path above

if __name__ == "__main__":
    sys.exit(main())

"""`python bench/compare`: compare Headrace with alternative job queues on the same work.

The program starts PostgreSQL and Valkey, and runs each contestant on them in turn. See
docs/benchmarks.md for the figures and the method.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Import from the repository root, not from this folder.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from bench.compare.command import main  # noqa: E402 - needs the path above

if __name__ == "__main__":
    sys.exit(main())

"""`python bench/compare`: Headrace beside what its users would pick instead, on the same work.

It starts a PostgreSQL and a Valkey of its own, and each contestant in turn on them. See
docs/benchmarks.md for what is measured and how.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The folder that holds `bench`, and not this one, is where modules are found.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from bench.compare.command import main  # noqa: E402 - it is found from here on

if __name__ == "__main__":
    sys.exit(main())

"""`python bench/streams`: how soon the clients of open streams see a transition, and at what cost.

It starts a PostgreSQL, a Valkey and a gateway of its own, and the load in processes of its own. See
docs/benchmarks.md for what is measured and how.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The folder that holds `bench`, and not this one, is where modules are found.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from bench.streams.command import main  # noqa: E402 - it is found from here on

if __name__ == "__main__":
    sys.exit(main())

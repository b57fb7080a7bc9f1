"""`python bench/gate BASE`: compare the speed of this checkout with that of another commit.

Both commits run in turn on the same machine, so a slow minute affects both. The program fails if a
figure is slower beyond doubt.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Import from the repository root, not from this folder.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from bench.gate.command import main  # noqa: E402 - needs the path above

if __name__ == "__main__":
    sys.exit(main())

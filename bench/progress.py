"""The progress of a benchmark, on the standard error output."""

from __future__ import annotations

import sys
import time
from typing import Final

_STARTED_AT: Final = time.monotonic()


def announce(text: str) -> None:
    """Write a line with the seconds since the start of the program."""
    sys.stderr.write(f"bench: {time.monotonic() - _STARTED_AT:4.0f} s  {text}\n")

"""When a quiet stream sends a mark, so that proxies and clients know that it is there."""

from __future__ import annotations

import random
from typing import Final

# The share of the interval after which a mark may be sent. The jitter keeps the marks of streams
# that began together apart.
_EARLIEST: Final = 0.75
# Marks that are due in the same fiftieth of a second go together: of ten thousand streams that is
# a batch of two milliseconds, and less than half of the CPU time, as most of it is waking up.
_TOGETHER: Final = 0.02


def next_mark(now: float, interval: float) -> float:
    """When a mark is due if nothing is sent from `now` on, at most `interval` seconds later."""
    due = now + random.uniform(_EARLIEST * interval, interval)
    return due - due % _TOGETHER

"""Identifiers: UUIDv7 (RFC 9562, section 5.7), which sort in the order of their making."""

from __future__ import annotations

import os
import threading
import time
from typing import NewType
from uuid import UUID

JobId = NewType("JobId", UUID)
BatchId = NewType("BatchId", UUID)
WorkerId = NewType("WorkerId", UUID)

_lock = threading.Lock()
_last = 0


def uuid7() -> UUID:
    """A new UUIDv7, larger than every earlier one of this process.

    The 12 bits after the milliseconds hold the fraction of the millisecond (method 3 of RFC 9562,
    section 6.2); when the clock stands still or goes back they count on.
    """
    global _last  # noqa: PLW0603 - the generator's state, under its lock
    with _lock:
        nanoseconds = time.time_ns()
        milliseconds, rest = divmod(nanoseconds, 1_000_000)
        stamp = (milliseconds << 12) | (rest * 4096 // 1_000_000)
        _last = stamp = max(stamp, _last + 1)
    value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62
    return UUID(int=value | int.from_bytes(os.urandom(8)) >> 2)

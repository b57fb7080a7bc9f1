"""Identifiers: UUIDv7 (RFC 9562, section 5.7), which sort in the order of their making."""

from __future__ import annotations

import os
import struct
import threading
import time
from typing import NewType
from uuid import UUID

JobId = NewType("JobId", UUID)
BatchId = NewType("BatchId", UUID)
WorkerId = NewType("WorkerId", UUID)

_lock = threading.Lock()
_last = 0

_HALVES = struct.Struct(">QQ")


def uuid7() -> UUID:
    """A new UUIDv7, larger than every earlier one of this process.

    The 12 bits after the milliseconds hold the fraction of the millisecond (method 3 of RFC 9562,
    section 6.2); when the clock stands still or goes back they count on.
    """
    return UUID(bytes=uuid7_bytes(1)[0])


def uuid7_bytes(count: int) -> list[bytes]:
    """The 16 bytes of `count` new UUIDv7, in their order; of many at a tenth of the cost.

    Their stamps count on from the first one, so they are ahead of the clock by a quarter of a
    microsecond each.
    """
    global _last  # noqa: PLW0603 - the generator's state, under its lock
    with _lock:
        milliseconds, rest = divmod(time.time_ns(), 1_000_000)
        first = max((milliseconds << 12) | (rest * 4096 // 1_000_000), _last + 1)
        _last = first + count - 1
    noise = struct.unpack(f">{count}Q", os.urandom(8 * count))
    return [
        _HALVES.pack((stamp >> 12) << 16 | 0x7000 | (stamp & 0xFFF), 0b10 << 62 | bits >> 2)
        for stamp, bits in enumerate(noise, first)
    ]


def parse_id(text: str) -> UUID:
    """Parse an id in its canonical form, such as 0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15.

    Raises:
        ValueError: the text has another form, though it may be a UUID.
    """
    # UUID() ignores hyphens and braces anywhere, and accepts capitals.
    value = UUID(text)
    if str(value) != text:
        raise ValueError(text)
    return value

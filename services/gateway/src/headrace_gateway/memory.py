"""Returns freed memory to the operating system.

gRPC allocates much memory while many calls arrive at the same time. After their end, the C library
keeps that memory, in pages between the allocations that are still in use.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from headrace_core.runtime.loop import Loop

_STATM: Final = Path("/proc/self/statm")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# Seconds between two runs. The wait doubles up to the second value while a run returns little.
_INTERVAL: Final = 5.0
_MAX_INTERVAL: Final = 60.0
# The growth since the start after which memory is returned, and a return that is worthwhile, in
# bytes. A run takes about 10 ms for 100 MiB.
_GROWTH: Final = 32 * 1024 * 1024
_WORTHWHILE: Final = 8 * 1024 * 1024


class MemoryTrim(Loop):
    """Returns freed memory while the process has more than at its start.

    Args:
        trim: returns freed memory to the operating system.
        read_resident: returns the resident memory, in bytes.
    """

    name = "memory"

    def __init__(self, *, trim: Callable[[], object], read_resident: Callable[[], int]) -> None:
        self._trim = trim
        self.read_resident = read_resident
        self._least = read_resident()
        self._wait = _INTERVAL

    async def run_once(self) -> float:
        """Return freed memory if the process has grown."""
        before = self.read_resident()
        if before <= self._least + _GROWTH:
            self._least = min(self._least, before)
            self._wait = _INTERVAL
            return self._wait
        await asyncio.to_thread(self._trim)
        is_worthwhile = before - self.read_resident() >= _WORTHWHILE
        self._wait = _INTERVAL if is_worthwhile else min(2 * self._wait, _MAX_INTERVAL)
        return self._wait


def memory_trim() -> MemoryTrim | None:
    """Return the loop for this process; None if its C library cannot return memory."""
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None or not _STATM.exists():
        return None
    return MemoryTrim(trim=lambda: trim(0), read_resident=_resident_bytes)


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * _PAGE_BYTES

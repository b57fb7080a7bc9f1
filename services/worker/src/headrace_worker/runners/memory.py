"""The memory limit of a handler's process, which the worker enforces.

The worker reads the resident memory from /proc and kills a process that exceeds its limit. A limit
on the address space (RLIMIT_AS) would count memory that native libraries only reserve, and would
not report why the process ended.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from headrace_worker.api.errors import Fail
from headrace_worker.runners.loop import ProcessDied

# Seconds between two readings. A process can fill about 100 MB in this time.
_INTERVAL_S: Final = 0.05

# proc(5). Pages of mapped files do not count, because the kernel can reclaim them at any time.
_USED_MEMORY = re.compile(r"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.MULTILINE)


class MemoryWatch:
    """Kill a process if it exceeds its memory limit while the `with` block runs.

    Args:
        pid: the process.
        limit: the limit in bytes; None for no limit. Without /proc, the limit has no effect.
        kill: called once the process exceeds the limit; must end it.

    Raises:
        Fail: the process exceeded its limit. Replaces the ProcessDied that the block raised.
    """

    def __init__(self, pid: int, limit: int | None, kill: Callable[[], None]) -> None:
        self._pid = pid
        self._limit = limit
        self._kill = kill
        self._exceeded = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        if self._limit is not None:
            self._check(asyncio.get_running_loop(), self._limit)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._exceeded and isinstance(error, ProcessDied):
            raise Fail(
                f"the handler exceeded its memory limit of {self._limit} bytes",
                type="MemoryLimitExceeded",
            ) from None

    def _check(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        used = memory_of(self._pid)
        if used is None:
            return
        if used > limit:
            self._exceeded = True
            self._kill()
            return
        self._timer = loop.call_later(_INTERVAL_S, self._check, loop, limit)


def memory_of(pid: int) -> int | None:
    """Return the memory of a process in bytes; None if it has ended or /proc does not exist."""
    try:
        found = _USED_MEMORY.findall(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return sum(map(int, found)) * 1024 if found else None


def leaves_room(pid: int, limit: int | None) -> bool:
    """Return whether a process uses at most half of the limit, so a job can use the rest."""
    return limit is None or (memory_of(pid) or 0) <= limit // 2

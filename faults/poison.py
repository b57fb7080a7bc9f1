"""Jobs that kill their process, and a job whose payload cannot be decoded."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
from pathlib import Path
from typing import Literal

from msgspec import Struct

from faults.handlers import record_start
from headrace_worker import Context, handler

# Memory that a poison job may allocate before it fails, in bytes.
_HEADROOM = 128 * 2**20

Cause = Literal["exit", "segfault", "memory", "killed"]


class Poison(Struct, frozen=True, forbid_unknown_fields=True):
    """The way in which a poison job kills its process."""

    cause: Cause


@handler("poison")
async def poison(payload: Poison, ctx: Context) -> None:
    """Kill the process that runs the attempt."""
    record_start(ctx)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    match payload.cause:
        case "exit":
            os._exit(1)
        case "segfault":
            ctypes.string_at(0)
        case "memory":
            _run_out_of_memory()
        case "killed":
            # As the kernel does when the machine is out of memory.
            os.kill(os.getpid(), signal.SIGKILL)


def _run_out_of_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * mmap.PAGESIZE + _HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    blocks = []
    try:
        while True:
            blocks.append(bytearray(2**20))
    except MemoryError:
        # A C++ library calls std::terminate here. A Python MemoryError would only fail the job.
        os.abort()


class Even(Struct, frozen=True, forbid_unknown_fields=True):
    """A payload with a rule that its schema cannot express."""

    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("number must be even")


@handler("even")
async def even(payload: Even, ctx: Context) -> None:
    """Accept even numbers."""
    record_start(ctx)

"""Jobs that kill what they run in, and one that cannot be read."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
from pathlib import Path
from typing import Literal

from msgspec import Struct

from faults.handlers import note
from headrace_worker import Context, handler

# How much more memory a poison may have before it has none, in bytes.
_MORE = 128 * 2**20

Way = Literal["exit", "segfault", "memory", "killed"]


class Poison(Struct, frozen=True, forbid_unknown_fields=True):
    """How to kill."""

    way: Way


@handler("poison")
async def poison(payload: Poison, ctx: Context) -> None:
    """Kills the process that it runs in."""
    note(ctx)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    match payload.way:
        case "exit":
            os._exit(1)
        case "segfault":
            ctypes.string_at(0)
        case "memory":
            _run_out_of_memory()
        case "killed":
            # As the kernel does it when the machine has no memory left.
            os.kill(os.getpid(), signal.SIGKILL)


def _run_out_of_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * mmap.PAGESIZE + _MORE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    taken = []
    try:
        while True:
            taken.append(bytearray(2**20))
    except MemoryError:
        # What a library in C++ does that is given none (std::terminate), and what is in Python's
        # own hands would be an error of the job alone.
        os.abort()


class Picky(Struct, frozen=True, forbid_unknown_fields=True):
    """A payload of which the schema does not say everything."""

    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("only even numbers can be read")


@handler("picky")
async def picky(payload: Picky, ctx: Context) -> None:
    """Takes what it can read."""
    note(ctx)

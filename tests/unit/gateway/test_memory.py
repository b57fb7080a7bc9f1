"""When freed memory is returned to the operating system."""

from __future__ import annotations

import ctypes

from headrace_gateway.memory import MemoryTrim, memory_trim

MIB = 2**20


class Process:
    """A process whose memory the tests set.

    Attributes:
        resident: the resident memory, in bytes.
        freed: the part that a trim returns, in bytes.
        trims: the number of trims.
    """

    def __init__(self) -> None:
        self.resident = 100 * MIB
        self.freed = 0
        self.trims = 0

    def trim(self) -> None:
        self.trims += 1
        self.resident -= self.freed
        self.freed = 0

    def loop(self) -> MemoryTrim:
        return MemoryTrim(trim=self.trim, read_resident=lambda: self.resident)


async def test_steady_memory_is_not_trimmed() -> None:
    process = Process()
    loop = process.loop()
    for _ in range(100):
        await loop.run_once()
    assert process.trims == 0


async def test_memory_freed_after_a_peak_is_returned() -> None:
    process = Process()
    loop = process.loop()
    process.resident += 200 * MIB
    # The memory is still in use.
    await loop.run_once()
    process.freed = 200 * MIB
    await loop.run_once()
    assert process.resident == 100 * MIB


async def test_trims_are_rare_while_memory_stays_in_use() -> None:
    process = Process()
    loop = process.loop()
    process.resident += 500 * MIB
    waits = [await loop.run_once() for _ in range(10)]
    assert waits == sorted(waits)
    assert waits[-1] > 4 * waits[0]
    process.freed = 500 * MIB
    assert await loop.run_once() < waits[0]


async def test_process_returns_freed_memory() -> None:
    loop = memory_trim()
    assert loop is not None
    # Blocks between blocks in use, which the C library keeps.
    library = ctypes.CDLL(None)
    library.malloc.restype = library.memset.restype = ctypes.c_void_p
    blocks = [
        library.memset(ctypes.c_void_p(library.malloc(32_000)), 1, 32_000) for _ in range(4000)
    ]
    assert None not in blocks
    await loop.run_once()
    for number, block in enumerate(blocks):
        if number % 100:
            library.free(ctypes.c_void_p(block))
    before = loop.read_resident()
    await loop.run_once()
    for block in blocks[::100]:
        library.free(ctypes.c_void_p(block))
    assert loop.read_resident() < before - 64 * MIB

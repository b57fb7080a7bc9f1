"""Output of many tokens: emitted complete, in order and in few pieces, the first one at once."""

from __future__ import annotations

import asyncio

import pytest

from headrace_handlers.coalesced_output import PIECE, CoalescedOutput
from headrace_worker import Fail


class Pieces:
    """Stores pieces of output, and sets an event for each piece."""

    def __init__(self) -> None:
        self.emitted: list[object] = []
        self.arrived = asyncio.Event()

    async def emit(self, piece: object) -> None:
        self.emitted.append(piece)
        self.arrived.set()


async def test_output_emits_first_text_at_once_and_rest_together() -> None:
    pieces = Pieces()
    async with asyncio.timeout(60), CoalescedOutput(pieces.emit, interval=60) as output:
        output.write("first")
        await pieces.arrived.wait()
        assert pieces.emitted == ["first"]
        for number in range(100):
            output.write(f" {number}")
    assert pieces.emitted == ["first", "".join(f" {number}" for number in range(100))]


async def test_pending_text_is_emitted_after_the_interval() -> None:
    pieces = Pieces()
    async with asyncio.timeout(60), CoalescedOutput(pieces.emit, interval=0.01) as output:
        output.write("a")
        await pieces.arrived.wait()
        pieces.arrived.clear()
        output.write("b")
        await pieces.arrived.wait()
        assert pieces.emitted == ["a", "b"]


async def test_output_without_text_emits_nothing() -> None:
    pieces = Pieces()
    async with asyncio.timeout(60), CoalescedOutput(pieces.emit):
        pass
    assert pieces.emitted == []


async def test_long_text_is_emitted_in_pieces() -> None:
    pieces = Pieces()
    async with asyncio.timeout(60), CoalescedOutput(pieces.emit) as output:
        output.write("x" * (2 * PIECE + 1))
    assert [len(str(piece)) for piece in pieces.emitted] == [PIECE, PIECE, 1]


async def test_emit_error_is_raised_by_write() -> None:
    failed = asyncio.Event()

    async def emit(_: object) -> None:
        failed.set()
        raise Fail("too large")

    async def write() -> None:
        async with asyncio.timeout(60), CoalescedOutput(emit) as output:
            output.write("a")
            await failed.wait()
            while True:
                await asyncio.sleep(0)
                output.write("b")

    with pytest.raises(Fail, match="too large"):
        await write()


async def test_last_emit_error_is_raised_at_the_end() -> None:
    async def emit(_: object) -> None:
        raise Fail("too large")

    with pytest.raises(Fail, match="too large"):
        async with asyncio.timeout(60), CoalescedOutput(emit) as output:
            output.write("a")


async def test_block_error_stops_the_output() -> None:
    pieces = Pieces()
    before = asyncio.all_tasks()

    async def write() -> None:
        async with asyncio.timeout(60), CoalescedOutput(pieces.emit, interval=60) as output:
            output.write("a")
            await pieces.arrived.wait()
            output.write("b")
            raise ValueError("failed in the block")

    with pytest.raises(ValueError, match="failed in the block"):
        await write()
    assert pieces.emitted == ["a"]
    assert asyncio.all_tasks() == before


async def test_cancellation_stops_the_last_emit() -> None:
    started = asyncio.Event()

    async def emit(_: object) -> None:
        started.set()
        await asyncio.Event().wait()

    async def write() -> None:
        async with CoalescedOutput(emit) as output:
            output.write("a")

    before = asyncio.all_tasks()
    writer = asyncio.create_task(write())
    async with asyncio.timeout(60):
        await started.wait()
        writer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writer
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before

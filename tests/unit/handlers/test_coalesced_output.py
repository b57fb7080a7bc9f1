"""Tokens become few pieces of output: the first at once, nothing lost, in order."""

from __future__ import annotations

import asyncio

import pytest

from headrace_handlers.coalesced_output import PIECE, CoalescedOutput
from headrace_worker import Fail


class Pieces:
    """Takes pieces of output, and tells that one has come."""

    def __init__(self) -> None:
        self.taken: list[object] = []
        self.came = asyncio.Event()

    async def emit(self, piece: object) -> None:
        self.taken.append(piece)
        self.came.set()


async def test_the_first_text_is_emitted_at_once_and_the_rest_together() -> None:
    pieces = Pieces()
    async with asyncio.timeout(10), CoalescedOutput(pieces.emit, interval=60) as output:
        output.write("first")
        await pieces.came.wait()
        assert pieces.taken == ["first"]
        for number in range(100):
            output.write(f" {number}")
    assert pieces.taken == ["first", "".join(f" {number}" for number in range(100))]


async def test_held_text_is_emitted_after_the_interval_though_no_more_comes() -> None:
    pieces = Pieces()
    async with asyncio.timeout(10), CoalescedOutput(pieces.emit, interval=0.01) as output:
        output.write("a")
        await pieces.came.wait()
        pieces.came.clear()
        output.write("b")
        await pieces.came.wait()
        assert pieces.taken == ["a", "b"]


async def test_nothing_written_is_nothing_emitted() -> None:
    pieces = Pieces()
    async with asyncio.timeout(10), CoalescedOutput(pieces.emit):
        pass
    assert pieces.taken == []


async def test_a_long_text_is_emitted_in_pieces() -> None:
    pieces = Pieces()
    async with asyncio.timeout(10), CoalescedOutput(pieces.emit) as output:
        output.write("x" * (2 * PIECE + 1))
    assert [len(str(piece)) for piece in pieces.taken] == [PIECE, PIECE, 1]


async def test_an_error_of_emit_comes_out() -> None:
    failed = asyncio.Event()

    async def emit(_: object) -> None:
        failed.set()
        raise Fail("too large")

    async def write() -> None:
        async with asyncio.timeout(10), CoalescedOutput(emit) as output:
            output.write("a")
            await failed.wait()
            while True:
                await asyncio.sleep(0)
                output.write("b")

    with pytest.raises(Fail, match="too large"):
        await write()


async def test_an_error_of_the_last_piece_comes_out_at_the_end() -> None:
    async def emit(_: object) -> None:
        raise Fail("too large")

    with pytest.raises(Fail, match="too large"):
        async with asyncio.timeout(10), CoalescedOutput(emit) as output:
            output.write("a")


async def test_an_error_of_the_block_comes_out_and_ends_the_emission() -> None:
    pieces = Pieces()
    before = asyncio.all_tasks()

    async def write() -> None:
        async with asyncio.timeout(10), CoalescedOutput(pieces.emit, interval=60) as output:
            output.write("a")
            await pieces.came.wait()
            output.write("b")
            raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        await write()
    assert pieces.taken == ["a"]
    assert asyncio.all_tasks() == before


async def test_a_cancellation_passes_through_while_the_rest_is_emitted() -> None:
    begun = asyncio.Event()

    async def emit(_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def write() -> None:
        async with CoalescedOutput(emit) as output:
            output.write("a")

    before = asyncio.all_tasks()
    writer = asyncio.create_task(write())
    async with asyncio.timeout(10):
        await begun.wait()
        writer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writer
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before

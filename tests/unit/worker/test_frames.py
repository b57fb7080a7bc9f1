"""Messages between a worker and the process of a handler."""

from __future__ import annotations

import asyncio

import pytest

from headrace_worker.runners import frames


async def test_who_is_cancelled_within_a_message_loses_nothing_of_it() -> None:
    stream = asyncio.StreamReader()
    incoming = frames.Incoming(stream, max_bytes=1000)
    said = frames.frame(frames.Output(chunk="all of it"))
    for byte in said[:-1]:
        receiving = asyncio.create_task(incoming.receive())
        stream.feed_data(bytes([byte]))
        # It has taken what has come, and waits for more.
        await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
    stream.feed_data(said[-1:])
    assert frames.decode_from_handler(await incoming.receive()) == frames.Output(chunk="all of it")

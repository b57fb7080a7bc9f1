"""Messages between a worker and a handler process."""

from __future__ import annotations

import asyncio

import pytest

from headrace_worker.runners import frames


async def test_receive_cancelled_within_a_message_loses_nothing() -> None:
    stream = asyncio.StreamReader()
    incoming = frames.MessageReader(stream, max_bytes=1000)
    framed = frames.encode(frames.Output(chunk="all of it"))
    for byte in framed[:-1]:
        receiving = asyncio.create_task(incoming.receive())
        stream.feed_data(bytes([byte]))
        # The call has read the first part and is waiting for more.
        await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
    stream.feed_data(framed[-1:])
    assert frames.decode_from_handler(await incoming.receive()) == frames.Output(chunk="all of it")

"""Feeds that several readers share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from headrace.errors import CallError, Refusal
from headrace_web.feeds import shared
from headrace_web.feeds.shared import Feeds, Reader


@dataclass
class Step:
    number: int
    encodings: list[str]

    def change(self) -> bytes:
        self.encodings.append(f"change {self.number}")
        return b"c%d " % self.number

    def snapshot(self) -> bytes:
        return b"s%d " % self.number


class Source:
    """A source whose steps the test sends."""

    def __init__(self) -> None:
        self.starts = 0
        self.closed = asyncio.Event()
        self.encodings: list[str] = []
        self._steps: asyncio.Queue[Step | Exception] = asyncio.Queue()

    async def send(self, number: int) -> None:
        """Send a step, and wait until the feed has published it."""
        self._steps.put_nowait(Step(number, self.encodings))
        await self._steps.join()

    async def fail(self, error: Exception) -> None:
        self._steps.put_nowait(error)
        await self.closed.wait()

    async def __call__(self) -> AsyncIterator[Step]:
        self.starts += 1
        try:
            while True:
                step = await self._steps.get()
                if isinstance(step, Exception):
                    raise step
                yield step
                # The feed asks for the next step after it has published this one.
                self._steps.task_done()
        finally:
            self.closed.set()


@pytest.fixture
async def feeds():
    feeds = Feeds()
    yield feeds
    await feeds.stop()


def joined(feeds: Feeds, source: Source, key: str = "key") -> Reader:
    reader = feeds.join(key, source)
    assert reader is not None
    return reader


async def test_readers_share_a_source_and_its_encodings(feeds: Feeds) -> None:
    source = Source()
    readers = [joined(feeds, source) for _ in range(3)]
    await source.send(1)
    assert [await reader.next() for reader in readers] == [b"s1 "] * 3
    await source.send(2)
    assert [await reader.next() for reader in readers] == [b"c2 "] * 3
    assert source.starts == 1
    assert source.encodings == ["change 2"]


async def test_late_reader_gets_the_latest_snapshot(feeds: Feeds) -> None:
    source = Source()
    first = joined(feeds, source)
    await source.send(1)
    await source.send(2)
    assert await joined(feeds, source).next() == b"s2 "
    assert await first.next() == b"s2 "


async def test_slow_reader_skips_to_a_snapshot(feeds: Feeds) -> None:
    source = Source()
    slow, fast = joined(feeds, source), joined(feeds, source)
    await source.send(0)
    await slow.next()
    await fast.next()
    for number in range(1, 20):
        await source.send(number)
        assert await fast.next() == b"c%d " % number
    assert await slow.next() == b"s19 "
    await source.send(20)
    assert await slow.next() == b"c20 "


async def test_waiting_changes_arrive_together(feeds: Feeds) -> None:
    source = Source()
    reader = joined(feeds, source)
    await source.send(1)
    await reader.next()
    await source.send(2)
    await source.send(3)
    assert await reader.next() == b"c2 c3 "


async def test_error_of_the_source_reaches_all_readers_and_ends_the_feed(feeds: Feeds) -> None:
    source = Source()
    readers = [joined(feeds, source) for _ in range(2)]
    await source.fail(CallError(Refusal(code="UNAUTHENTICATED", message="expired")))
    for reader in readers:
        with pytest.raises(CallError, match="expired"):
            await reader.next()
    assert len(feeds) == 0
    again = Source()
    joined(feeds, again)
    await again.send(1)
    assert again.starts == 1


async def test_feed_ends_some_time_after_its_last_reader(feeds: Feeds, monkeypatch) -> None:
    monkeypatch.setattr(shared, "LINGER_S", 0.01)
    source = Source()
    reader = joined(feeds, source)
    await source.send(1)
    await reader.aclose()
    await source.closed.wait()
    assert len(feeds) == 0


async def test_returning_reader_keeps_the_feed(feeds: Feeds) -> None:
    source = Source()
    reader = joined(feeds, source)
    await source.send(1)
    await reader.aclose()
    assert await joined(feeds, source).next() == b"s1 "
    assert source.starts == 1


async def test_feeds_beyond_the_limit_are_refused(feeds: Feeds, monkeypatch) -> None:
    monkeypatch.setattr(shared, "MAX_FEEDS", 1)
    source = Source()
    joined(feeds, source, "first")
    assert feeds.join("second", source) is None
    joined(feeds, source, "first")


async def test_cancelled_wait_loses_no_message(feeds: Feeds) -> None:
    source = Source()
    reader = joined(feeds, source)
    waiting = asyncio.create_task(reader.next())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await source.send(1)
    assert await reader.next() == b"s1 "

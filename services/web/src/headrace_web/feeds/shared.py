"""Feeds that several browsers read: one source, one encoding of each message, bounded queues."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Final, Protocol

import structlog

from headrace.errors import CallError, Refusal
from headrace_core.runtime.tasks import end_tasks

_log = structlog.get_logger()

# The largest number of changes that wait for a slow browser; it then gets a snapshot instead.
_MAX_WAITING: Final = 8
# A feed without readers continues for this time, in seconds, because pages are often reloaded.
LINGER_S: Final = 5.0
# The largest number of feeds of a web service.
MAX_FEEDS: Final = 2_000
_STOP_TIMEOUT_S: Final = 5.0


class Update(Protocol):
    """A step of a feed."""

    def change(self) -> bytes:
        """Return the messages for readers that have the previous step."""

    def snapshot(self) -> bytes:
        """Return the messages for readers that have nothing."""


# Starts the source of a feed. It must be an async generator, which the feed closes.
Source = Callable[[], AsyncIterator[Update]]


class Reader:
    """Reads a shared feed for a browser.

    A new reader, and one that is too slow, gets a snapshot; after that, it gets changes.

    Args:
        feed: the feed.
    """

    def __init__(self, feed: SharedFeed) -> None:
        self._feed = feed
        self._waiting: deque[bytes] = deque()
        self._needs_snapshot = True
        self._wake = asyncio.Event()

    def put(self, change: Callable[[], bytes]) -> None:
        """Queue a change."""
        if not self._needs_snapshot:
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.append(change())
            else:
                self._waiting.clear()
                self._needs_snapshot = True
        self._wake.set()

    def wake(self) -> None:
        """Let the reader see the end of the feed."""
        self._wake.set()

    async def next(self) -> bytes | None:
        """Return the next messages. The wait can be cancelled.

        Raises:
            CallError: the gateway has rejected or ended the stream of the feed.
        """
        while True:
            self._wake.clear()
            latest = self._feed.latest
            if self._needs_snapshot and latest is not None:
                self._needs_snapshot = False
                return latest.snapshot()
            if self._waiting:
                messages = b"".join(self._waiting)
                self._waiting.clear()
                return messages
            if self._feed.error is not None:
                raise self._feed.error
            await self._wake.wait()

    async def aclose(self) -> None:
        """Leave the feed."""
        self._feed.leave(self)


class SharedFeed:
    """A source and its readers.

    Args:
        source: starts the source.
        on_end: called when the source has ended or has had no reader for `LINGER_S`.

    Attributes:
        latest: the last step; None before the first one.
        error: the error that ended the source; None while it runs.
    """

    def __init__(self, source: Source, *, on_end: Callable[[SharedFeed], None]) -> None:
        self.latest: Update | None = None
        self.error: CallError | None = None
        self._source = source
        self._on_end = on_end
        self._readers: set[Reader] = set()
        self._leaving: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._run(), name="feed")

    def join(self) -> Reader:
        """Return a new reader."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        reader = Reader(self)
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Remove a reader. The last one leaves the source running for a moment."""
        self._readers.discard(reader)
        if not self._readers and self._leaving is None:
            self._leaving = asyncio.get_running_loop().call_later(LINGER_S, self._expire)

    async def stop(self) -> None:
        """End the source."""
        if self._leaving is not None:
            self._leaving.cancel()
        await end_tasks(self._task, within=_STOP_TIMEOUT_S)

    def _expire(self) -> None:
        self._task.cancel()
        self._on_end(self)

    async def _run(self) -> None:
        try:
            source = self._source()
            async with aclosing(source):  # type: ignore[type-var]  # sources are async generators
                async for update in source:
                    self._publish(update)
        except CallError as error:
            self._end(error)
        except Exception:  # noqa: BLE001 - readers must see the end of the feed
            _log.exception("feed_failed")
            self._end(CallError(Refusal(code="INTERNAL", message="the feed failed; try again")))

    def _publish(self, update: Update) -> None:
        self.latest = update
        encoded: bytes | None = None

        def change() -> bytes:
            nonlocal encoded
            if encoded is None:
                encoded = update.change()
            return encoded

        for reader in self._readers:
            reader.put(change)

    def _end(self, error: CallError) -> None:
        self.error = error
        self._on_end(self)
        for reader in self._readers:
            reader.wake()


class Feeds:
    """The running feeds, by key."""

    def __init__(self) -> None:
        self._feeds: dict[object, SharedFeed] = {}

    def join(self, key: object, source: Source) -> Reader | None:
        """Return a reader of the feed with a key.

        Args:
            key: equal for readers that may share a feed: their credential, its kind and parameters.
            source: starts the source if the feed does not run.

        Returns:
            The reader; None if too many feeds run.
        """
        feed = self._feeds.get(key)
        if feed is None:
            if len(self._feeds) >= MAX_FEEDS:
                return None
            feed = SharedFeed(source, on_end=lambda ended: self._remove(key, ended))
            self._feeds[key] = feed
        return feed.join()

    def __len__(self) -> int:
        return len(self._feeds)

    async def stop(self) -> None:
        """End all feeds."""
        feeds = list(self._feeds.values())
        self._feeds.clear()
        await asyncio.gather(*(feed.stop() for feed in feeds))

    def _remove(self, key: object, ended: SharedFeed) -> None:
        if self._feeds.get(key) is ended:
            del self._feeds[key]

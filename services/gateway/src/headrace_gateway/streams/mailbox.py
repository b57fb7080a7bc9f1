"""The bounded queue between the tail and one stream."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from headrace_core.domain.errors import HeadraceError
from headrace_core.domain.job import JobEvent
from headrace_gateway.streams.messages import weigh


class Mailbox:
    """Holds the events of a stream until the stream takes them.

    The tail never waits for a stream. A full mailbox drops all its events, and its stream reads
    them from PostgreSQL.

    Args:
        room: the maximum number of events.
        room_bytes: the maximum number of characters in their documents; a single event may
            exceed it.
    """

    __slots__ = (
        *("_changed", "_error", "_events", "_room", "_room_bytes", "_weight"),
        *("oldest_dropped", "oldest_sending", "overflowed"),
    )

    def __init__(self, *, room: int, room_bytes: int) -> None:
        self._room = room
        self._room_bytes = room_bytes
        self._events: list[JobEvent] = []
        self._weight = 0
        self._changed = asyncio.Event()
        self._error: HeadraceError | None = None
        # True after the mailbox has dropped events. It then accepts none until it is reopened.
        self.overflowed = False
        # Times for the lag of the stream, in seconds since 1970 by the database's clock: the oldest
        # dropped event, until the stream has caught up; and the oldest event that is being sent.
        self.oldest_dropped: float | None = None
        self.oldest_sending: float | None = None

    @property
    def oldest(self) -> float | None:
        """The time of the oldest unsent event; None if all events were sent.

        Any thread may read it.
        """
        moments = [self.oldest_dropped, self.oldest_sending]
        with suppress(IndexError):
            moments.append(self._events[0].time.timestamp())
        return min((moment for moment in moments if moment is not None), default=None)

    def __bool__(self) -> bool:
        """Return whether it holds events."""
        return bool(self._events)

    def put(self, *events: JobEvent) -> None:
        """Add events; never wait."""
        if self.overflowed:
            return
        self._events.extend(events)
        for event in events:
            self._weight += weigh(event)
        held = len(self._events)
        if held > self._room or (self._weight > self._room_bytes and held > 1):
            self.overflow()
        self._changed.set()

    def overflow(self) -> None:
        """Drop all events: the stream continues from PostgreSQL."""
        if self._events and self.oldest_dropped is None:
            self.oldest_dropped = self._events[0].time.timestamp()
        self.overflowed = True
        self._clear()
        self._changed.set()

    def take(self, limit: int) -> list[JobEvent]:
        """Remove up to `limit` events and return them, the oldest first."""
        if len(self._events) <= limit:
            taken, self._events, self._weight = self._events, [], 0
            return taken
        taken = self._events[:limit]
        del self._events[:limit]
        self._weight -= sum(map(weigh, taken))
        return taken

    def reopen(self) -> None:
        """Open the empty mailbox again after an overflow."""
        self._clear()
        self.overflowed = False

    def _clear(self) -> None:
        self._events.clear()
        self._weight = 0

    def fail(self, error: HeadraceError) -> None:
        """End the stream with an error at its next wait."""
        self._error = error
        self._changed.set()

    def check(self) -> None:
        """Raise the error that ends the stream, if any."""
        if self._error is not None:
            raise self._error

    async def wait(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - until a mark is due
        """Wait for events or an overflow, at most `timeout` seconds.

        Without a timeout only an event, an overflow, `fail` or the end of the call ends the wait.

        Raises:
            HeadraceError: ends the stream.
        """
        self._changed.clear()
        self.check()
        if self._events or self.overflowed:
            return
        timer = None
        if timeout is not None:
            # The timer ends the wait like an event; asyncio.timeout would cancel it and raise.
            timer = asyncio.get_running_loop().call_later(timeout, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self.check()

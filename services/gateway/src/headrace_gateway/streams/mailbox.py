"""The bounded queue between the tail and one stream."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from headrace_core.domain.errors import HeadraceError
from headrace_core.domain.job import JobEvent
from headrace_gateway.streams.messages import weigh


class Mailbox:
    """Holds a stream's events until the stream takes them.

    The tail never waits for a stream. A full mailbox drops all its events, and its stream reads
    them from PostgreSQL.

    Args:
        max_events: the maximum number of events.
        max_characters: the maximum number of characters in their documents; a single event may
            exceed it.
    """

    __slots__ = (
        *("_changed", "_error", "_events", "_max_events", "_max_characters", "_weight"),
        *("oldest_dropped", "oldest_sending", "overflowed"),
    )

    def __init__(self, *, max_events: int, max_characters: int) -> None:
        self._max_events = max_events
        self._max_characters = max_characters
        self._events: list[JobEvent] = []
        self._weight = 0
        self._changed = asyncio.Event()
        self._error: HeadraceError | None = None
        # True after the mailbox has dropped events. It then ignores new events until it is
        # reopened.
        self.overflowed = False
        # The time of the oldest dropped event, in seconds since 1970 by the database's clock; None
        # once the stream has caught up.
        self.oldest_dropped: float | None = None
        # The time of the oldest event that is being sent; None if no event is being sent.
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
        """Return whether the mailbox holds events."""
        return bool(self._events)

    def put(self, *events: JobEvent) -> None:
        """Add events; never wait."""
        if self.overflowed:
            return
        self._events.extend(events)
        for event in events:
            self._weight += weigh(event)
        held = len(self._events)
        if held > self._max_events or (self._weight > self._max_characters and held > 1):
            self.overflow()
        self._changed.set()

    def overflow(self) -> None:
        """Drop all events, so the stream continues from PostgreSQL."""
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

        Without a timeout, only an event, an overflow, `fail` or the end of the call ends the wait.

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

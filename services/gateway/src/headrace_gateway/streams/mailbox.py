"""The bounded queue between the tail and one stream."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from headrace_core.domain.errors import HeadraceError
from headrace_core.domain.job import JobEvent
from headrace_gateway.streams.messages import weigh


class Mailbox:
    """Holds events for a stream until it takes them.

    The tail never waits for a stream. When there is no room the mailbox drops everything, and says
    so: its stream then reads from PostgreSQL what it has missed.

    Args:
        room: how many events it holds at most.
        room_bytes: how long their documents may be together, unless it holds a single event.
    """

    __slots__ = (
        *("_changed", "_error", "_events", "_room", "_room_bytes", "_weight"),
        *("behind", "overflowed", "sending"),
    )

    def __init__(self, *, room: int, room_bytes: int) -> None:
        self._room = room
        self._room_bytes = room_bytes
        self._events: list[JobEvent] = []
        self._weight = 0
        self._changed = asyncio.Event()
        self._error: HeadraceError | None = None
        # Whether it has dropped events since it was made or reopened. It takes none until then.
        self.overflowed = False
        # For whoever asks how far the stream is behind, in seconds since 1970 by the database's
        # clock: the oldest event that was dropped, until the stream has come back to where its
        # mailbox begins, and the oldest of what it is sending.
        self.behind: float | None = None
        self.sending: float | None = None

    @property
    def oldest(self) -> float | None:
        """When the oldest event happened that was put here and has not been sent; None: no such.

        It may be asked in any thread.
        """
        moments = [self.behind, self.sending]
        with suppress(IndexError):
            moments.append(self._events[0].time.timestamp())
        return min((moment for moment in moments if moment is not None), default=None)

    def __bool__(self) -> bool:
        """Whether there is something to take."""
        return bool(self._events)

    def put(self, *events: JobEvent) -> None:
        """Adds events; never waits."""
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
        """Drops everything: its stream shall go on from PostgreSQL."""
        if self._events and self.behind is None:
            self.behind = self._events[0].time.timestamp()
        self.overflowed = True
        self._clear()
        self._changed.set()

    def take(self, limit: int) -> list[JobEvent]:
        """Removes up to `limit` events and returns them, the oldest first."""
        if len(self._events) <= limit:
            taken, self._events, self._weight = self._events, [], 0
            return taken
        taken = self._events[:limit]
        del self._events[:limit]
        self._weight -= sum(map(weigh, taken))
        return taken

    def reopen(self) -> None:
        """Begins anew after an overflow, with nothing in it."""
        self._clear()
        self.overflowed = False

    def _clear(self) -> None:
        self._events.clear()
        self._weight = 0

    def fail(self, error: HeadraceError) -> None:
        """Ends the stream with an error, as soon as it looks."""
        self._error = error
        self._changed.set()

    def check(self) -> None:
        """Raises the error that ends the stream, if there is one."""
        if self._error is not None:
            raise self._error

    async def wait(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - a mark is due
        """Returns when there is something to take, after an overflow, or after `timeout` seconds.

        Without a timeout it waits for as long as the job takes; the end of the call and `fail` are
        what ends it sooner.

        Raises:
            HeadraceError: what the stream shall end with.
        """
        self._changed.clear()
        self.check()
        if self._events or self.overflowed:
            return
        timer = None
        if timeout is not None:
            # It ends the wait as an event does; asyncio.timeout would cancel and raise, at a price.
            timer = asyncio.get_running_loop().call_later(timeout, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self.check()

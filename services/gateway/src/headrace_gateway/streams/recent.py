"""Keeps the end of the event log in memory, so streams that resume together read it only once."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from headrace_core.domain.job import JobEvent
from headrace_core.store.event_log import PAGE_BYTES, EventPage, Place, place_of
from headrace_gateway.streams.messages import weigh

# Maximum number of events, and maximum number of characters in their documents.
_MAX_EVENTS: Final = 10_000
_MAX_CHARACTERS: Final = 8 * 1024 * 1024


class RecentEvents:
    """One section of the settled event log, with the events of all tenants.

    After a gateway restarts, its streams need mostly the same events. The first streams read these
    events from PostgreSQL page by page, and later streams find them here. Settled events do not
    change.

    Args:
        max_events: the maximum number of events.
        max_characters: the maximum number of characters in their documents.
    """

    def __init__(
        self, *, max_events: int = _MAX_EVENTS, max_characters: int = _MAX_CHARACTERS
    ) -> None:
        self._max_events = max_events
        self._max_characters = max_characters
        # All events after `start` and up to `end`, in order, and their places.
        self._start: Place | None = None
        self._end: Place | None = None
        self._events: list[JobEvent] = []
        self._places: list[Place] = []
        self._characters = 0

    def page(self, *, after: Place, through: Place, limit: int) -> EventPage | None:
        """Return up to `limit` events after `after` and up to `through`; None if not in memory.

        Like a page from PostgreSQL, the page ends early at `PAGE_BYTES`.
        """
        if self._start is None or self._end is None or not self._start <= after <= self._end:
            return None
        first = bisect_right(self._places, after)
        stop = bisect_right(self._places, through)
        last = self._page_end(first, min(stop, first + limit))
        complete = through <= self._end and last == stop
        if first == last and not complete:
            return None
        return EventPage(
            events=self._events[first:last],
            end=self._places[last - 1] if first < last else None,
            complete=complete,
        )

    def _page_end(self, first: int, last: int) -> int:
        """Return the end of a page that starts at `first`: `last`, or earlier at `PAGE_BYTES`."""
        if self._characters <= PAGE_BYTES:
            return last
        characters = 0
        for number in range(first, last):
            if characters >= PAGE_BYTES:
                return number
            characters += weigh(self._events[number])
        return last

    def add(self, page: EventPage, *, after: Place, through: Place) -> None:
        """Add a page from PostgreSQL, if it adjoins this section or is newer.

        Args:
            page: the page.
            after: the start of its range.
            through: the end of its range.
        """
        end = through if page.complete or page.end is None else page.end
        if self._start is None or self._end is None or after > self._end:
            self._start, self._end = after, end
            self._events, self._places, self._characters = [], [], 0
            older, newer = [], list(page.events)
        elif end < self._start:
            return
        else:
            older = [event for event in page.events if place_of(event) <= self._start]
            newer = [event for event in page.events if place_of(event) > self._end]
            self._start, self._end = min(self._start, after), max(self._end, end)
        self._events = [*older, *self._events, *newer]
        self._places = [*map(place_of, older), *self._places, *map(place_of, newer)]
        self._characters += sum(map(weigh, (*older, *newer)))
        self._trim()

    def _trim(self) -> None:
        dropped = 0
        while (
            len(self._events) - dropped > self._max_events
            or self._characters > self._max_characters
        ):
            self._characters -= weigh(self._events[dropped])
            dropped += 1
        if dropped:
            self._start = self._places[dropped - 1]
            del self._events[:dropped], self._places[:dropped]

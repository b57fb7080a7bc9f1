"""The end of the log in memory, so that streams that come back together read it once."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from headrace_core.domain.job import JobEvent
from headrace_core.store.event_log import PAGE_BYTES, EventPage, Place, place_of
from headrace_gateway.streams.messages import weigh

# How many events it holds, and how many characters their documents may come to together.
_MAX_EVENTS: Final = 10_000
_MAX_CHARACTERS: Final = 8 * 1024 * 1024


class Recent:
    """One piece of the settled log, with all events of all tenants in it.

    When a gateway is restarted, each of its streams wants what has happened since, which is much
    the same for all. The first ones read it from PostgreSQL, page by page, and the others find it
    here. What has settled does not change any more.

    Args:
        max_events: how many events it holds at most.
        max_characters: how long their documents may be together.
    """

    def __init__(
        self, *, max_events: int = _MAX_EVENTS, max_characters: int = _MAX_CHARACTERS
    ) -> None:
        self._max_events = max_events
        self._max_characters = max_characters
        # All events behind `begin` and up to `end`, in their order, and their places.
        self._begin: Place | None = None
        self._end: Place | None = None
        self._events: list[JobEvent] = []
        self._places: list[Place] = []
        self._characters = 0

    def page(self, *, after: Place, through: Place, limit: int) -> EventPage | None:
        """Up to `limit` events behind `after` and up to `through`; None when they are not here.

        As a page from PostgreSQL, it ends earlier at `PAGE_BYTES`.
        """
        if self._begin is None or self._end is None or not self._begin <= after <= self._end:
            return None
        first = bisect_right(self._places, after)
        behind = bisect_right(self._places, through)
        last = self._fitting(first, min(behind, first + limit))
        complete = through <= self._end and last == behind
        if first == last and not complete:
            return None
        return EventPage(
            events=self._events[first:last],
            end=self._places[last - 1] if first < last else None,
            complete=complete,
        )

    def _fitting(self, first: int, last: int) -> int:
        """Where a page from `first` on ends: at `last`, or before it has too many characters."""
        if self._characters <= PAGE_BYTES:
            return last
        characters = 0
        for number in range(first, last):
            if characters >= PAGE_BYTES:
                return number
            characters += weigh(self._events[number])
        return last

    def add(self, page: EventPage, *, after: Place, through: Place) -> None:
        """Adds what was read from PostgreSQL, if it joins on to what is here or lies behind it.

        Args:
            page: what was read.
            after, through: the range that was asked for.
        """
        end = through if page.complete or page.end is None else page.end
        if self._begin is None or self._end is None or after > self._end:
            self._begin, self._end = after, end
            self._events, self._places, self._characters = [], [], 0
            older, newer = [], list(page.events)
        elif end < self._begin:
            return
        else:
            older = [event for event in page.events if place_of(event) <= self._begin]
            newer = [event for event in page.events if place_of(event) > self._end]
            self._begin, self._end = min(self._begin, after), max(self._end, end)
        self._events = [*older, *self._events, *newer]
        self._places = [*map(place_of, older), *self._places, *map(place_of, newer)]
        self._characters += sum(map(weigh, (*older, *newer)))
        self._trim()

    def _trim(self) -> None:
        gone = 0
        while (
            len(self._events) - gone > self._max_events or self._characters > self._max_characters
        ):
            self._characters -= weigh(self._events[gone])
            gone += 1
        if gone:
            self._begin = self._places[gone - 1]
            del self._events[:gone], self._places[:gone]

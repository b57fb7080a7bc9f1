"""The window of unsettled events, which are visible but wait for an open transaction."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from headrace_core.domain.job import JobEvent
from headrace_core.store.event_log import BEGINNING, Place, place_of
from headrace_gateway.streams.messages import weigh

# The maximum number of characters in the documents of the window.
_MAX_CHARACTERS: Final = 16 * 1024 * 1024


class Window:
    """Sorts events by their places.

    The window holds unsettled events up to its limits. A full window drops all events and remembers
    the last transaction with missing events. The missing events are read from PostgreSQL once they
    have settled.

    Args:
        max_events: the maximum number of events.
        max_characters: the maximum number of characters in their documents.
    """

    def __init__(self, *, max_events: int, max_characters: int = _MAX_CHARACTERS) -> None:
        self._max_events = max_events
        self._max_characters = max_characters
        self._weight = 0
        # Sorted by place; every event is after `place`.
        self._events: list[JobEvent] = []
        # All events up to this place have settled and were taken.
        self.place: Place = BEGINNING
        # Events after `place` may be missing if their transaction is this one or an earlier one.
        self.missing_through = 0

    def start(self, place: Place, *, through: int) -> None:
        """Start after `place`; events of transactions up to `through` are missing."""
        self._events.clear()
        self._weight = 0
        self.place = place
        self.missing_through = through if through > place[0] else 0

    def add(self, events: Sequence[JobEvent]) -> None:
        """Add newly visible events; drop duplicates.

        Args:
            events: the events, in the order of their places.
        """
        if not events:
            return
        held = self._events
        if place_of(events[0]) > (place_of(held[-1]) if held else self.place):
            held.extend(events)
            self._weight += sum(map(weigh, events))
        else:
            merged = {place_of(event): event for event in (*held, *events)}
            self._events = [merged[place] for place in sorted(merged) if place > self.place]
            self._weight = sum(map(weigh, self._events))
        if len(self._events) > self._max_events or self._weight > self._max_characters:
            self.missing_through = max(self.missing_through, self._events[-1].xid)
            self._events.clear()
            self._weight = 0

    def take(self, horizon: int, limit: int, *, through: Place | None = None) -> list[JobEvent]:
        """Remove and return up to `limit` events below `horizon`, and move after them.

        While events are missing, none are removed.

        Args:
            horizon: the oldest open transaction.
            limit: the maximum number of events.
            through: the last place to take; None for no limit.
        """
        events = self._events
        if not self.has_settled(horizon):
            return []
        if through is not None:
            limit = min(limit, bisect_right(events, through, key=place_of))
        if not limit:
            return []
        if events[-1].xid < horizon and len(events) <= limit:
            # The usual case: no transaction stays open for long.
            taken, self._events, self._weight = events, [], 0
        else:
            count = min(limit, bisect_left(events, horizon, key=_xid))
            taken = events[:count]
            del events[:count]
            self._weight -= sum(map(weigh, taken))
        self.place = place_of(taken[-1])
        return taken

    def has_settled(self, horizon: int) -> bool:
        """Return whether the window has events below `horizon` to take."""
        return not self.missing_through and bool(self._events) and self._events[0].xid < horizon

    def move(self, place: Place | None, *, found_all: bool) -> None:
        """Move after events that were read from PostgreSQL.

        Args:
            place: the place of the last event; None if none were read.
            found_all: True if no event is missing now.
        """
        if place is not None:
            self.place = place
            # The window may also contain some of these events.
            del self._events[: bisect_right(self._events, place, key=place_of)]
            self._weight = sum(map(weigh, self._events))
        if found_all:
            self.missing_through = 0


_xid = attrgetter("xid")

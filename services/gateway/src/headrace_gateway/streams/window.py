"""Between visible and settled: the events that wait for a transaction which is still open."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from headrace_core.domain.job import JobEvent
from headrace_core.store.event_log import BEGINNING, Place, place_of
from headrace_gateway.streams.messages import weigh

# How long the documents of the events that wait may be together, in characters.
_ROOM_BYTES: Final = 16 * 1024 * 1024


class Window:
    """Puts the events that were read into the order of their places.

    It holds what has not settled, as far as there is room. When an open transaction keeps it from
    moving for too long it lets go of everything, and remembers up to which transaction events are
    missing: those are read from PostgreSQL once they have settled.

    Args:
        room: how many events it holds at most.
        room_bytes: how long their documents may be together.
    """

    def __init__(self, *, room: int, room_bytes: int = _ROOM_BYTES) -> None:
        self._room = room
        self._room_bytes = room_bytes
        self._weight = 0
        # In the order of their places, all of them behind `place`.
        self._events: list[JobEvent] = []
        # All events up to this one have settled and were taken.
        self.place: Place = BEGINNING
        # Events behind `place` of transactions up to this one may be missing here.
        self.missing_through = 0

    def begin(self, place: Place, *, through: int) -> None:
        """Begins behind `place`, where events of transactions up to `through` were not added."""
        self._events.clear()
        self._weight = 0
        self.place = place
        self.missing_through = through if through > place[0] else 0

    def add(self, events: Sequence[JobEvent]) -> None:
        """Adds events that have become visible; the same ones again do no harm.

        Args:
            events: in the order of their places.
        """
        if not events:
            return
        held = self._events
        if place_of(events[0]) > (place_of(held[-1]) if held else self.place):
            held.extend(events)
            self._weight += sum(map(weigh, events))
        else:
            both = {place_of(event): event for event in (*held, *events)}
            self._events = [both[place] for place in sorted(both) if place > self.place]
            self._weight = sum(map(weigh, self._events))
        if len(self._events) > self._room or self._weight > self._room_bytes:
            self.missing_through = max(self.missing_through, self._events[-1].xid)
            self._events.clear()
            self._weight = 0

    def take(self, horizon: int, limit: int, *, through: Place | None = None) -> list[JobEvent]:
        """Removes up to `limit` events below `horizon`, in order, and moves behind them.

        While events are missing there is nothing to take.

        Args:
            horizon: the oldest transaction that was open.
            limit: how many at most.
            through: the last place to take, if there is such a bound.
        """
        events = self._events
        if not self.has_settled(horizon):
            return []
        if through is not None:
            limit = min(limit, bisect_right(events, through, key=place_of))
        if not limit:
            return []
        if events[-1].xid < horizon and len(events) <= limit:
            # All of them, as mostly when no transaction stays open for long.
            taken, self._events, self._weight = events, [], 0
        else:
            count = min(limit, bisect_left(events, horizon, key=_xid))
            taken = events[:count]
            del events[:count]
            self._weight -= sum(map(weigh, taken))
        self.place = place_of(taken[-1])
        return taken

    def has_settled(self, horizon: int) -> bool:
        """Whether there is something below `horizon` to take."""
        return not self.missing_through and bool(self._events) and self._events[0].xid < horizon

    def move(self, place: Place | None, *, found_all: bool) -> None:
        """Moves behind events that were read from PostgreSQL.

        Args:
            place: the last one's; None when there was none.
            found_all: nothing is missing any more.
        """
        if place is not None:
            self.place = place
            # Some of them may have come here as well.
            del self._events[: bisect_right(self._events, place, key=place_of)]
            self._weight = sum(map(weigh, self._events))
        if found_all:
            self.missing_through = 0


_xid = attrgetter("xid")

"""Between visible and settled: the events that wait for a transaction which is still open."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from headrace_core.domain.job import JobEvent
from headrace_core.store.events import BEGINNING, Place, place_of


class Window:
    """Puts the events that were read into the order of their places.

    It holds what has not settled, as far as there is room. When an open transaction keeps it from
    moving for too long it lets go of everything, and remembers up to which transaction events are
    missing: those are read from PostgreSQL once they have settled.

    Args:
        room: how many events it holds at most.
    """

    def __init__(self, *, room: int) -> None:
        self._room = room
        self._heap: list[Place] = []
        self._events: dict[Place, JobEvent] = {}
        # All events up to this one have settled and were taken.
        self.place: Place = BEGINNING
        # Events behind `place` of transactions up to this one may be missing here.
        self.missing_through = 0

    def begin(self, place: Place, *, through: int) -> None:
        """Begins behind `place`, where events of transactions up to `through` were not added."""
        self._clear()
        self.place = place
        self.missing_through = through if through > place[0] else 0

    def add(self, events: Iterable[JobEvent]) -> None:
        """Adds events that have become visible, in any order; the same ones again do no harm."""
        for event in events:
            place = place_of(event)
            if place > self.place and place not in self._events:
                heapq.heappush(self._heap, place)
                self._events[place] = event
        if len(self._heap) > self._room:
            self.missing_through = max(self.missing_through, max(self._heap)[0])
            self._clear()

    def take(self, horizon: int, limit: int) -> list[JobEvent]:
        """Removes up to `limit` events below `horizon`, in order, and moves behind them.

        While events are missing there is nothing to take.
        """
        taken: list[JobEvent] = []
        while self.has_settled(horizon) and len(taken) < limit:
            place = heapq.heappop(self._heap)
            event = self._events.pop(place)
            # What was missing has been read from PostgreSQL, and may have come here as well.
            if place > self.place:
                self.place = place
                taken.append(event)
        return taken

    def has_settled(self, horizon: int) -> bool:
        """Whether there is something below `horizon` to take."""
        return not self.missing_through and bool(self._heap) and self._heap[0][0] < horizon

    def move(self, place: Place | None, *, found_all: bool) -> None:
        """Moves behind events that were read from PostgreSQL.

        Args:
            place: the last one's; None when there was none.
            found_all: nothing is missing any more.
        """
        if place is not None:
            self.place = place
        if found_all:
            self.missing_through = 0

    def _clear(self) -> None:
        self._heap.clear()
        self._events.clear()

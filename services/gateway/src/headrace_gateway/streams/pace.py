"""How soon the tail may look again: at once after a rest, less often under load."""

from __future__ import annotations

from typing import Final

# What a look costs, in seconds of its own time: so long after it the next one is due, and longer
# when it has found much, so that under load a look finds more.
_LOOK: Final = 0.005
_EVENT: Final = 0.0001
_LONGEST: Final = 0.02
# How far looks may be ahead of that: a job of which nothing is known but that it waits comes to its
# end in three looks, each of them at once.
_AHEAD: Final = 0.025


class Pace:
    """Lets looks follow each other at once for a while, and then no more often than they may.

    Looks are paid for with time: what has been saved up allows a few quick ones.
    """

    def __init__(self) -> None:
        # Until when the looks so far are to last.
        self._paid = 0.0

    def rest(self, events: int, *, now: float) -> float:
        """How many seconds to rest after a look.

        Args:
            events: how many it has found.
            now: by a clock that only goes forward, in seconds.
        """
        cost = min(max(_LOOK, events * _EVENT), _LONGEST)
        # However many pages of a backlog went before: no rest is longer than one look is worth.
        self._paid = min(max(self._paid, now), now + _AHEAD) + cost
        return max(0.0, self._paid - _AHEAD - now)

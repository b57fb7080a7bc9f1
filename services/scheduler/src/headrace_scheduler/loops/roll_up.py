"""Add settled events to the history of each minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from headrace_core.runtime.loop import Loop
from headrace_core.store.event_log import Place
from headrace_core.store.history import add_events, prune_history, read_place
from headrace_core.store.sql.database import Database
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.timing import DEFAULT, Timing

# Events, and removed minutes, per transaction.
_PAGE: Final = 2_000


class RollUp(Loop):
    """Count the events of each minute, and remove the minutes after their retention.

    Args:
        database: the store.
        term: the term of the scheduler.
        retention: the age after which a minute is removed.
        gauges: receives the durations of waits and runs.
        timing: the interval of the loop, and the minimum pause between transactions.
        page: events per transaction.
        clock: monotonic seconds.
        sleep: waits for the given seconds.
    """

    name = "roll_up"

    def __init__(
        self,
        *,
        database: Database,
        term: int,
        retention: timedelta,
        gauges: Gauges,
        timing: Timing = DEFAULT,
        page: int = _PAGE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._term = term
        self._retention = retention
        self._gauges = gauges
        self._timing = timing
        self._page = page
        self._clock = clock
        self._sleep = sleep
        self._place: Place | None = None
        self._prune_due = clock()

    async def run_once(self) -> float:
        """Add all settled events; return the seconds until the next run."""
        place, self._place = self._place, None
        if place is None:
            async with self._database.statement() as connection:
                place = await read_place(connection)
        while True:
            start = self._clock()
            async with self._database.transaction() as connection:
                added = await add_events(connection, term=self._term, after=place, limit=self._page)
            place = added.place
            self._gauges.durations.add(added.durations)
            if added.events < self._page:
                break
            # As for pruning, a long history leaves room for other work.
            await self._sleep(max(self._timing.prune_rest, self._clock() - start))
        # After a failed run, the place is read again, because its transaction may have committed.
        self._place = place
        if self._clock() >= self._prune_due:
            await self._prune()
            self._prune_due = self._clock() + self._timing.prune
        return self._timing.roll_up

    async def _prune(self) -> None:
        while True:
            async with self._database.statement() as connection:
                removed = await prune_history(
                    connection,
                    term=self._term,
                    older_than=self._retention,
                    limit=self._page,
                )
            if removed < self._page:
                return
            await self._sleep(self._timing.prune_rest)

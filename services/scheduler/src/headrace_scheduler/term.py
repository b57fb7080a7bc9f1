"""The loops of a term, and what wakes them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final, NoReturn

from headrace_core.delivery import Deliverer
from headrace_core.domain.errors import StaleTerm
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.wake import Listener, Topic, Waker
from headrace_scheduler.loop import Loop, keep_running
from headrace_scheduler.loops.dispatch import Dispatch
from headrace_scheduler.loops.promote import Promote
from headrace_scheduler.loops.prune import Prune
from headrace_scheduler.loops.recover import Recover
from headrace_scheduler.metrics import Gauges

# The longest time between two looks at the wake-ups, in seconds.
_LISTEN: Final = 10.0


class Term:
    """What a scheduler does while it leads.

    It is a fresh one for each term: what an earlier one remembered is not to be trusted.

    Args:
        term: its number, which everything that is written compares.
        settings: limits.
        database: where the jobs are.
        waker: rung when something was found.
        listener: hears what others ring for.
        deliverer: brings jobs to the workers.
        gauges: told what was done, and what was refused.
    """

    def __init__(
        self,
        term: int,
        *,
        settings: Settings,
        database: Database,
        waker: Waker,
        listener: Listener,
        deliverer: Deliverer,
        gauges: Gauges,
    ) -> None:
        self._listener = listener
        self._gauges = gauges
        self._promote = Promote(database=database, waker=waker, term=term)
        self._dispatch = Dispatch(
            database=database,
            deliverer=deliverer,
            term=term,
            prefetch=settings.dispatch_prefetch,
            redeliver_after=settings.redeliver_after,
        )
        self._loops: tuple[Loop, ...] = (
            self._promote,
            self._dispatch,
            Recover(
                database=database,
                waker=waker,
                term=term,
                gauges=gauges,
                max_losses=settings.max_worker_losses,
            ),
            Prune(
                database=database,
                term=term,
                gauges=gauges,
                retention=settings.kept_for,
                subscription_retention=timedelta(seconds=settings.subscription_retention),
            ),
        )
        self._woken = {loop.name: asyncio.Event() for loop in self._loops}

    async def run(self) -> None:
        """Runs all loops until it is cancelled.

        Raises:
            StaleTerm: what a loop would have written was refused, as the term is over.
        """
        running = [
            asyncio.create_task(keep_running(loop, self._woken[loop.name]), name=loop.name)
            for loop in self._loops
        ]
        hearing = asyncio.create_task(self._hear(), name="hear")
        try:
            await asyncio.wait({*running, hearing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(*running, hearing)
            faults = [task.exception() for task in (*running, hearing) if not task.cancelled()]
            self._gauges.stale_writes += sum(isinstance(fault, StaleTerm) for fault in faults)
        for fault in filter(None, faults):
            raise fault

    async def _hear(self) -> NoReturn:
        while True:
            heard = await self._listener.wait(_LISTEN)
            # The others have a pace of their own.
            if Topic.JOBS in heard:
                self._woken[self._promote.name].set()
            if Topic.JOBS in heard or (Topic.SLOTS in heard and not self._dispatch.supplied):
                self._woken[self._dispatch.name].set()

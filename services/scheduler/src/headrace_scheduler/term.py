"""The loops of one term, and their wake-ups."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final, NoReturn

import structlog

from headrace_core.delivery import Deliverer
from headrace_core.domain.errors import StaleTerm
from headrace_core.runtime import loop
from headrace_core.runtime.loop import Loop, LoopRecords, LoopRunner, Wake
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.wake import Listener, Waker
from headrace_scheduler.loops.dispatch import Dispatch
from headrace_scheduler.loops.promote import Promote
from headrace_scheduler.loops.prune import Prune
from headrace_scheduler.loops.recover import Recover
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.timing import DEFAULT, Timing

_log = structlog.get_logger()

# Longest wait for wake-ups, in seconds.
_LISTEN: Final = 10.0


class Term:
    """The work of a scheduler while it leads.

    Each term has loops of its own: another leader may have changed what earlier ones remembered.

    Args:
        term: its number; every write compares it with the stored one.
        settings: limits.
        database: the store.
        waker: announces changes.
        listener: receives wake-ups.
        deliverer: writes to the queues of the pools.
        gauges: counts work and refused writes.
        records: of the loops.
        timing: of the loops.
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
        records: LoopRecords,
        timing: Timing = DEFAULT,
    ) -> None:
        self._listener = listener
        self._gauges = gauges
        self._records = records
        self._timing = timing
        self._loops: tuple[Loop, ...] = (
            Promote(database=database, waker=waker, term=term, timing=timing),
            Dispatch(
                database=database,
                deliverer=deliverer,
                term=term,
                prefetch=settings.dispatch_prefetch,
                redeliver_after=settings.redeliver_after,
                timing=timing,
            ),
            Recover(
                database=database,
                waker=waker,
                term=term,
                gauges=gauges,
                max_losses=settings.max_worker_losses,
                timing=timing,
            ),
            Prune(
                database=database,
                term=term,
                gauges=gauges,
                retention=settings.kept_for,
                subscription_retention=timedelta(seconds=settings.subscription_retention),
                timing=timing,
            ),
        )
        self._wakes = {one: Wake() for one in self._loops}

    async def run(self) -> None:
        """Run all loops until the task is cancelled.

        Raises:
            StaleTerm: the write of a loop was refused, as the term is over.
        """
        tasks = [
            LoopRunner(
                one,
                wake=wake,
                timing=loop.Timing(retry=self._timing.retry),
                fatal=(StaleTerm,),
                records=self._records,
            ).start()
            for one, wake in self._wakes.items()
        ]
        tasks.append(asyncio.create_task(self._listen(), name="wake-ups"))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(*tasks)
            faults = []
            for task in tasks:
                if not task.cancelled() and (fault := task.exception()):
                    faults.append(fault)
                    if isinstance(fault, StaleTerm):
                        _log.warning("stale_write_refused", loop=task.get_name())
                        self._gauges.stale_writes += 1
        for fault in faults:
            raise fault

    async def _listen(self) -> NoReturn:
        while True:
            topics = await self._listener.wait(_LISTEN)
            for one, wake in self._wakes.items():
                if any(topic in one.topics and one.accepts(topic) for topic in topics):
                    wake.set()

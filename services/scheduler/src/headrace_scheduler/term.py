"""The loops of one term and their wake-ups."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from headrace_core.delivery import Deliverer
from headrace_core.domain.errors import StaleTerm
from headrace_core.runtime import loop
from headrace_core.runtime.loop import Loop, LoopRecords, LoopRunner
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.wake import WakeBus
from headrace_scheduler.loops.delete_tenants import DeleteTenants
from headrace_scheduler.loops.dispatch import Dispatch
from headrace_scheduler.loops.measure_queues import MeasureQueues
from headrace_scheduler.loops.meter import Meter
from headrace_scheduler.loops.promote import Promote
from headrace_scheduler.loops.prune import Prune
from headrace_scheduler.loops.recover import Recover
from headrace_scheduler.loops.roll_up import RollUp
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.timing import DEFAULT, Timing

_log = structlog.get_logger()


class Term:
    """The work of a scheduler while it leads.

    Each term creates new loops, because another leader may have changed the data that the old loops
    remember.

    Args:
        term: the term number; every write compares it with the stored number.
        settings: the limits.
        database: the store.
        bus: wakes the loops and announces changes.
        deliverer: writes to the queues of the pools.
        gauges: counts work and refused writes.
        records: the records of the loops.
        timing: the durations of the loops.
    """

    def __init__(
        self,
        term: int,
        *,
        settings: Settings,
        database: Database,
        bus: WakeBus,
        deliverer: Deliverer,
        gauges: Gauges,
        records: LoopRecords,
        timing: Timing = DEFAULT,
    ) -> None:
        self._bus = bus
        self._gauges = gauges
        self._records = records
        self._timing = timing
        self._loops: tuple[Loop, ...] = (
            Promote(database=database, bus=bus, term=term, timing=timing),
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
                bus=bus,
                term=term,
                gauges=gauges,
                max_losses=settings.max_worker_losses,
                timing=timing,
            ),
            Prune(
                database=database,
                term=term,
                gauges=gauges,
                retention=settings.retention_policy,
                subscription_retention=timedelta(seconds=settings.subscription_retention),
                audit_retention=timedelta(seconds=settings.audit_retention),
                timing=timing,
            ),
            DeleteTenants(database=database, bus=bus, term=term, gauges=gauges, timing=timing),
            RollUp(
                database=database,
                term=term,
                retention=timedelta(seconds=settings.history_retention),
                gauges=gauges,
                timing=timing,
            ),
            Meter(database=database, term=term, gauges=gauges, timing=timing),
            MeasureQueues(database=database, gauges=gauges, timing=timing),
        )

    async def run(self) -> None:
        """Run all loops until the task is cancelled.

        Raises:
            StaleTerm: a loop's write was refused, because the term is over.
        """
        wakes = [self._bus.subscribe(*one.topics, accepts=one.accepts) for one in self._loops]
        tasks = [
            LoopRunner(
                one,
                wake=wake,
                timing=loop.Timing(retry=self._timing.retry),
                fatal=(StaleTerm,),
                records=self._records,
            ).start()
            for one, wake in zip(self._loops, wakes, strict=True)
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Unsubscribe first: if the leader cancels this task again, the remaining steps are
            # skipped.
            for wake in wakes:
                self._bus.unsubscribe(wake)
            await end_tasks(*tasks)
            # The next leader reports the usage and the queues.
            self._gauges.usage = ()
            self._gauges.queues = ()
            faults = []
            for task in tasks:
                if not task.cancelled() and (fault := task.exception()):
                    faults.append(fault)
                    if isinstance(fault, StaleTerm):
                        _log.warning("stale_write_refused", loop=task.get_name())
                        self._gauges.stale_writes += 1
        for fault in faults:
            raise fault

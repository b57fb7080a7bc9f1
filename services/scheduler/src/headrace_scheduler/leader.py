"""Leader election, and the leader's terms."""

from __future__ import annotations

import asyncio
import random
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import structlog

from headrace_core.domain.errors import StaleTerm, Unavailable
from headrace_core.runtime import loop
from headrace_core.runtime.loop import Loop, LoopRecords, LoopRunner
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.leadership import give_up_lead, renew_lead, take_lead
from headrace_core.store.sql.database import Database
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.timing import DEFAULT, Timing

_log = structlog.get_logger()


class _RenewLead(Loop):
    """Renew the lead of one term.

    Args:
        database: stores the lead.
        term: the term of the leader.
        lease: seconds until the lead lapses without a renewal.
        on_renewed: called after each successful renewal, with the monotonic time at its start.
    """

    name = "renew"

    def __init__(
        self, *, database: Database, term: int, lease: float, on_renewed: Callable[[float], None]
    ) -> None:
        self._database = database
        self._term = term
        self._lease = lease
        self._on_renewed = on_renewed
        self.first_wait = lease / 3

    async def run_once(self) -> float:
        """Renew the lead; return the seconds until the next renewal.

        Raises:
            StaleTerm: the term is over.
        """
        sent = time.monotonic()
        async with self._database.statement() as connection:
            await renew_lead(connection, term=self._term, lease=timedelta(seconds=self._lease))
        self._on_renewed(sent)
        return self._lease / 3


class Leader:
    """Try to lead until cancelled, and run `work` while leading.

    Args:
        database: stores the lead.
        work: receives the term, and runs until it is cancelled.
        gauges: record whether this scheduler leads.
        records: receives the record of the loop that renews the lead.
        timing: the durations of the lease and of the waits between tries.
    """

    def __init__(
        self,
        *,
        database: Database,
        work: Callable[[int], Awaitable[None]],
        gauges: Gauges,
        records: LoopRecords | None = None,
        timing: Timing = DEFAULT,
    ) -> None:
        self._database = database
        self._work = work
        self._gauges = gauges
        self._records = LoopRecords() if records is None else records
        self._timing = timing
        # The lead is renewed after a third of the lease. The last third is reserved for ending the
        # loops, which may have statements in flight.
        self._third = timing.lease / 3
        self._clock = time.monotonic
        # The earliest time at which the lease can end.
        self._lease_end = 0.0
        self._id = uuid4()
        self.leading = asyncio.Event()

    async def run(self) -> None:
        """Lead or be a standby until the task is cancelled."""
        while True:
            try:
                await self._try_to_lead()
            except Unavailable as fault:
                _log.warning("leadership_failed", dependency=fault.dependency)
            except StaleTerm as refusal:
                _log.warning("leadership_lost", term=refusal.term)
            except Exception:  # noqa: BLE001 - any fault makes this scheduler a standby again
                _log.exception("leadership_failed")
            await asyncio.sleep(random.uniform(*self._timing.standby))

    async def _try_to_lead(self) -> None:
        is_standby = False
        try:
            # Read the clock before the statement, so the local lease ends no later than the stored
            # one.
            sent = self._clock()
            async with self._database.statement() as connection:
                term = await take_lead(
                    connection, holder=self._id, lease=timedelta(seconds=self._timing.lease)
                )
            is_standby = term is None
            if term is not None:
                self._on_renewed(sent)
                await self._lead(term)
        finally:
            # After a fault, this scheduler may hold the lead without knowing it. Give up the lead,
            # so another scheduler can lead at once.
            if not is_standby:
                await self._give_up()

    async def _lead(self, term: int) -> None:
        _log.info("leadership_taken", term=term)
        work = asyncio.ensure_future(self._work(term))
        renewing = LoopRunner(
            _RenewLead(
                database=self._database,
                term=term,
                lease=self._timing.lease,
                on_renewed=self._on_renewed,
            ),
            timing=loop.Timing(retry=(self._third / 4, self._third / 4)),
            fatal=(StaleTerm,),
            records=self._records,
        ).start()
        self._gauges.leading, self._gauges.term = True, term
        self.leading.set()
        try:
            await self._wait_until_over(work, renewing)
        finally:
            self.leading.clear()
            self._gauges.leading = False
            await end_tasks(work, renewing)
            _log.info("leadership_ended", term=term)
        if not renewing.cancelled() and isinstance(renewing.exception(), StaleTerm):
            self._gauges.stale_writes += 1
        for task in (renewing, work):
            if not task.cancelled() and (fault := task.exception()):
                raise fault

    def _on_renewed(self, sent: float) -> None:
        self._lease_end = sent + self._timing.lease

    async def _wait_until_over(self, *tasks: asyncio.Future[Any]) -> None:
        """Wait until a task has ended, or until the tasks must end."""
        while (left := self._lease_end - self._third - self._clock()) > 0:
            done, _ = await asyncio.wait(tasks, timeout=left, return_when=FIRST_COMPLETED)
            if done:
                return
        if -left > self._timing.late:
            # PostgreSQL refuses the statement in flight. Wait for the response, to count the
            # refused write.
            await asyncio.wait(tasks, timeout=self._timing.answer, return_when=FIRST_COMPLETED)

    async def _give_up(self) -> None:
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(self._timing.release), self._database.statement() as conn:
                await give_up_lead(conn, holder=self._id)

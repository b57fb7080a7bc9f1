"""One scheduler leads, the others stand by."""

from __future__ import annotations

import asyncio
import random
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final
from uuid import uuid4

import structlog

from headrace_core.domain.errors import StaleTerm, Unavailable
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.leadership import give_up_lead, renew_lead, take_lead
from headrace_core.store.sql.database import Database
from headrace_scheduler.metrics import Gauges

_log = structlog.get_logger()

# How long a term lasts unless it is renewed, in seconds. Whoever stands by looks about every
# second, and so takes over within eight seconds of the last renewal.
LEASE: Final = 6.0
# One that is so many seconds late to end its loops has stood still, and waits so many for the
# answer to what it was about to write.
_STOOD_STILL: Final = 1.0
_ANSWER: Final = 1.0
# How long giving up may take, in seconds; whoever stands by waits for the lease otherwise.
_GIVE_UP: Final = 2.0


class Leader:
    """Tries to lead, for ever, and runs `work` while it does.

    Args:
        database: which knows who leads.
        work: is given the term, and runs until it is cancelled.
        gauges: told whether it leads.
        lease: how long a term lasts unless it is renewed, in seconds.
    """

    def __init__(
        self,
        *,
        database: Database,
        work: Callable[[int], Awaitable[None]],
        gauges: Gauges,
        lease: float = LEASE,
    ) -> None:
        self._database = database
        self._work = work
        self._gauges = gauges
        self._lease = timedelta(seconds=lease)
        # A third of the lease passes until it is renewed. The last third is for ending the loops,
        # whose statements may be on their way.
        self._share = lease / 3
        self._clock = time.monotonic
        # When the lease ends at the earliest.
        self._end = 0.0
        self._id = uuid4()
        self.leading = asyncio.Event()

    async def run(self) -> None:
        """Leads or stands by until it is cancelled."""
        while True:
            try:
                await self._try_to_lead()
            except Unavailable as fault:
                _log.warning("leadership_failed", dependency=fault.dependency)
            except StaleTerm as refusal:
                _log.warning("leadership_lost", term=refusal.term)
            except Exception:  # noqa: BLE001 - it stands by again, whatever ended its term
                _log.exception("leadership_failed")
            await asyncio.sleep(random.uniform(0.5, 1.5))

    async def _try_to_lead(self) -> None:
        stands_by = False
        try:
            # From before it asks: so the lease ends here no later than in the database.
            asked = self._clock()
            async with self._database.statement() as connection:
                term = await take_lead(connection, holder=self._id, lease=self._lease)
            stands_by = term is None
            if term is not None:
                self._end = asked + self._lease.total_seconds()
                await self._lead(term)
        finally:
            # Also when it is not known whether it leads: another one may do so at once.
            if not stands_by:
                await self._give_up()

    async def _lead(self, term: int) -> None:
        _log.info("leadership_taken", term=term)
        work = asyncio.ensure_future(self._work(term))
        renewing = asyncio.ensure_future(self._keep_renewing(term))
        self._gauges.leading, self._gauges.term = True, term
        self.leading.set()
        try:
            await self._until_over(work, renewing)
        finally:
            self.leading.clear()
            self._gauges.leading = False
            await end_tasks(work, renewing)
            _log.info("leadership_ended", term=term)
        for task in (renewing, work):
            if not task.cancelled() and (fault := task.exception()):
                raise fault

    async def _until_over(self, *tasks: asyncio.Future[None]) -> None:
        """Returns when one of the tasks has ended, or it is time to end them."""
        while (left := self._end - self._share - self._clock()) > 0:
            done, _ = await asyncio.wait(tasks, timeout=left, return_when=FIRST_COMPLETED)
            if done:
                return
        if -left > _STOOD_STILL:
            # Nothing that it writes is accepted by now, and the answer says so.
            await asyncio.wait(tasks, timeout=_ANSWER, return_when=FIRST_COMPLETED)

    async def _keep_renewing(self, term: int) -> None:
        pause = self._share
        while True:
            await asyncio.sleep(pause)
            asked = self._clock()
            try:
                async with self._database.statement() as connection:
                    await renew_lead(connection, term=term, lease=self._lease)
            except StaleTerm:
                self._gauges.stale_writes += 1
                raise
            except Unavailable as fault:
                _log.warning("leadership_not_renewed", term=term, dependency=fault.dependency)
                pause = self._share / 4
            else:
                self._end = asked + self._lease.total_seconds()
                pause = self._share

    async def _give_up(self) -> None:
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_GIVE_UP), self._database.statement() as connection:
                await give_up_lead(connection, holder=self._id)

"""One scheduler leads, the others stand by."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from headrace_core.domain.errors import Unavailable
from headrace_core.store.database import Database
from headrace_core.store.leadership import try_lead
from headrace_core.tasks import end_tasks

_log = structlog.get_logger()

# Seconds between two checks that the lock is still held, and the deadline of each.
_PROBE = 2.0


class Leader:
    """Tries to lead, for ever, and runs `work` while it does.

    Args:
        database: which has the lock.
        work: runs until it is cancelled.
    """

    def __init__(self, *, database: Database, work: Callable[[], Awaitable[None]]) -> None:
        self._database = database
        self._work = work
        self.leading = asyncio.Event()

    async def run(self) -> None:
        """Leads or stands by until it is cancelled."""
        while True:
            try:
                async with try_lead(self._database) as leadership:
                    if leadership is not None:
                        await self._lead(leadership.hold)
            except Unavailable as fault:
                _log.warning("leadership_failed", dependency=fault.dependency)
            except Exception:  # noqa: BLE001 - it stands by again, whatever ended its term
                _log.exception("leadership_failed")
            await asyncio.sleep(random.uniform(0.5, 1.5))

    async def _lead(self, hold: Callable[[float], Awaitable[None]]) -> None:
        _log.info("leadership_taken")
        work = asyncio.ensure_future(self._work())
        holding = asyncio.ensure_future(hold(_PROBE))
        self.leading.set()
        try:
            await asyncio.wait({work, holding}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.leading.clear()
            await end_tasks(work, holding)
            _log.info("leadership_ended")
        for task in (work, holding):
            if not task.cancelled() and (fault := task.exception()):
                raise fault

"""The worker's lease: one row, renewed by one small UPDATE."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final

import structlog

from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import WorkerId
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import NewWorker, register_worker, remove_worker, renew_lease
from headrace_worker.metrics import Counts

_log = structlog.get_logger()

# Seconds between two tries while the lease is in doubt or lost.
_SOON: Final = (0.2, 0.6)
# The least time that a try has, in seconds.
_LEAST_TRY_S: Final = 0.1
_NO_DATABASE: Final = "the database is not available"
# It goes on while the machine sleeps, where there is one that does: so does the database's.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _now() -> float:
    return time.clock_gettime(_CLOCK)


class Lease:
    """Registers the worker, renews its lease, and takes a fresh id when it is lost.

    A lease that could not be renewed is in doubt: from then on nothing new is to be taken. One beat
    before its end it is lost, so that whatever runs has that long to end.

    Args:
        database: which has the worker's row.
        describe: the worker as it registers, with a fresh id at each call.
        lease_s: how long the lease runs, in seconds.
        beat_s: how often it is renewed, in seconds; at most a third of that.
        on_doubt: called when it could not be renewed.
        on_lost: called when it is lost: whatever runs must end.
        on_held: called when it is held, again.
        counts: has how often it was lost.
    """

    def __init__(
        self,
        *,
        database: Database,
        describe: Callable[[], NewWorker],
        lease_s: float,
        beat_s: float,
        on_doubt: Callable[[], None],
        on_lost: Callable[[], None],
        on_held: Callable[[], None],
        counts: Counts,
    ) -> None:
        self._database = database
        self._describe = describe
        self._lease_s = lease_s
        self._beat_s = beat_s
        self._on_doubt = on_doubt
        self._on_lost = on_lost
        self._on_held = on_held
        self._counts = counts
        self._worker_id: WorkerId | None = None
        # When it lapses, unless it is renewed.
        self._ends = 0.0
        self._in_doubt = asyncio.Event()
        self.draining = False

    @property
    def worker_id(self) -> WorkerId:
        """The worker's id, as long as it holds the lease.

        Raises:
            Unavailable: it doesn't.
        """
        if self._worker_id is None or not self.held(self._worker_id):
            raise Unavailable("postgresql")
        return self._worker_id

    def held(self, worker_id: WorkerId) -> bool:
        """Whether the lease under this id is held.

        It goes by the time: after a stop of the whole process this knows at once.
        """
        return self._worker_id == worker_id and _now() < self._ends

    def doubt(self) -> None:
        """Puts the lease in doubt until it is renewed, which is tried soon."""
        if not self._in_doubt.is_set():
            self._in_doubt.set()
            self._on_doubt()

    async def take(self) -> None:
        """Registers the worker.

        Raises:
            Unavailable: the database is gone.
        """
        worker = self._describe()
        # The lease runs from before the database began it: a late answer makes it shorter here.
        asked = _now()
        async with self._database.transaction() as connection:
            await register_worker(connection, worker, lease=self._lease)
        self._worker_id, self._ends = worker.id, asked + self._lease_s
        _log.info("worker_registered", worker_id=str(worker.id), slots=worker.slots)
        self._in_doubt.clear()
        self._on_held()

    async def run(self) -> None:
        """Renews the lease for ever."""
        while True:
            if self._in_doubt.is_set():
                await asyncio.sleep(random.uniform(*_SOON))
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._beat_s * random.uniform(0.8, 1.0)):
                        await self._in_doubt.wait()
            await self.beat()

    async def beat(self) -> None:
        """Renews the lease once, or takes a new one when it is lost."""
        # Ends what runs one beat before the lease does, so that nothing runs twice.
        last = self._ends - self._beat_s
        worker_id = self._worker_id
        try:
            if worker_id is None:
                async with asyncio.timeout(self._beat_s):
                    await self.take()
                return
            asked = _now()
            left = max(last - asked, _LEAST_TRY_S)
            # A renewal that takes longer could tell of a lease that has lapsed meanwhile.
            async with (
                self._lost_after(left, worker_id),
                asyncio.timeout(min(self._beat_s, left)),
                self._database.statement() as connection,
            ):
                renewed = await renew_lease(
                    connection,
                    worker_id=worker_id,
                    lease=self._lease,
                    draining=self.draining,
                )
        except Exception as fault:  # noqa: BLE001 - whatever it is, the lease was not renewed
            if not isinstance(fault, Unavailable | TimeoutError):
                _log.exception("lease_not_renewed")
            self.doubt()
            if worker_id is not None and _now() >= last:
                self._lose(worker_id, _NO_DATABASE)
            return
        if not renewed:
            self._lose(worker_id, "it had lapsed")
            return
        if worker_id != self._worker_id:
            # It came too late: what runs has been told to end.
            return
        self._ends = asked + self._lease_s
        if self._in_doubt.is_set():
            self._in_doubt.clear()
            self._on_held()

    async def give_up(self) -> None:
        """Removes the worker's row, at the end."""
        worker_id, self._worker_id = self._worker_id, None
        if worker_id is not None:
            async with self._database.statement() as connection:
                await remove_worker(connection, worker_id=worker_id)

    @property
    def _lease(self) -> timedelta:
        return timedelta(seconds=self._lease_s)

    @asynccontextmanager
    async def _lost_after(self, seconds: float, worker_id: WorkerId) -> AsyncIterator[None]:
        """Loses the lease when the block takes longer: a statement on a connection that is gone
        takes its time to end even when it is cancelled.
        """
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, self._lose, worker_id, _NO_DATABASE)
        try:
            yield
        finally:
            timer.cancel()

    def _lose(self, worker_id: WorkerId, why: str) -> None:
        if worker_id != self._worker_id:
            # Another beat has noticed it meanwhile.
            return
        _log.error("lease_lost", worker_id=str(worker_id), why=why)
        self._worker_id = None
        self._counts.lease_losses += 1
        self.doubt()
        self._on_lost()

"""The worker's lease: one row, renewed by one small UPDATE."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import WorkerId
from headrace_core.store.database import Database
from headrace_core.store.workers import NewWorker, register_worker, remove_worker, renew_lease
from headrace_worker.metrics import Counts

_log = structlog.get_logger()


class Lease:
    """Holds the lease, and takes a new one under a fresh id when it is lost.

    Args:
        database: which has the worker's row.
        describe: the worker as it registers, with a fresh id at each call.
        lease_s: how long the lease runs, in seconds.
        beat_s: how often it is renewed, in seconds; at most a third of that.
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
        on_lost: Callable[[], None],
        on_held: Callable[[], None],
        counts: Counts,
    ) -> None:
        self._database = database
        self._describe = describe
        self._lease = timedelta(seconds=lease_s)
        self._beat_s = beat_s
        self._on_lost = on_lost
        self._on_held = on_held
        self._counts = counts
        self._worker_id: WorkerId | None = None
        self._renewed = 0.0
        self.draining = False

    @property
    def worker_id(self) -> WorkerId:
        """The worker's id, as long as it holds the lease.

        Raises:
            Unavailable: it doesn't.
        """
        if self._worker_id is None:
            raise Unavailable("postgresql")
        return self._worker_id

    def held(self, worker_id: WorkerId) -> bool:
        """Whether the lease under this id is still held."""
        return self._worker_id == worker_id

    async def take(self) -> None:
        """Registers the worker.

        Raises:
            Unavailable: the database is gone.
        """
        worker = self._describe()
        # The lease runs from before the database began it: a late answer makes it shorter here.
        asked = time.monotonic()
        async with self._database.transaction() as connection:
            await register_worker(connection, worker, lease=self._lease)
        self._worker_id, self._renewed = worker.id, asked
        _log.info("worker_registered", worker_id=str(worker.id), slots=worker.slots)
        self._on_held()

    async def run(self) -> None:
        """Renews the lease for ever."""
        while True:
            await asyncio.sleep(self._beat_s * random.uniform(0.8, 1.0))
            await self.beat()

    async def beat(self) -> None:
        """Renews the lease once, or takes a new one when it is lost."""
        try:
            # A renewal that takes longer could tell of a lease that has lapsed meanwhile.
            async with asyncio.timeout(self._beat_s):
                if self._worker_id is None:
                    await self.take()
                    return
                asked = time.monotonic()
                async with self._database.statement() as connection:
                    renewed = await renew_lease(
                        connection,
                        worker_id=self._worker_id,
                        lease=self._lease,
                        draining=self.draining,
                    )
        except Exception as fault:  # noqa: BLE001 - whatever it is, the lease was not renewed
            if not isinstance(fault, Unavailable | TimeoutError):
                _log.exception("lease_not_renewed")
            # Ends what runs one beat before the lease does, so that nothing runs twice.
            if (
                self._worker_id is not None
                and time.monotonic() - self._renewed
                > self._lease.total_seconds() - 2 * self._beat_s
            ):
                self._lose("the database is not available")
            return
        if renewed:
            self._renewed = asked
        else:
            self._lose("it had lapsed")

    async def give_up(self) -> None:
        """Removes the worker's row, at the end."""
        worker_id, self._worker_id = self._worker_id, None
        if worker_id is not None:
            async with self._database.statement() as connection:
                await remove_worker(connection, worker_id=worker_id)

    def _lose(self, why: str) -> None:
        _log.error("lease_lost", worker_id=str(self._worker_id), why=why)
        self._worker_id = None
        self._counts.lease_losses += 1
        self._on_lost()

"""The worker's lease: one row, which one small UPDATE renews."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import structlog

from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.pool import NewWorker
from headrace_core.runtime.loop import Loop, Wake
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import register_worker, remove_worker, renew_lease
from headrace_worker.metrics import Counts

_log = structlog.get_logger()

# Seconds between two tries to renew or register while the lease is in doubt or lost.
_RETRY_S: Final = (0.2, 0.6)
# The minimum time limit of a renewal, in seconds.
_MIN_TIMEOUT_S: Final = 0.1
_NO_DATABASE: Final = "the database is not available"
# A clock that continues while the machine sleeps, like the database's clock, if one exists.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _now() -> float:
    return time.clock_gettime(_CLOCK)


class Lease(Loop):
    """Register the worker, renew its lease, and register again under a new id after a loss.

    A lease is in doubt after a failed renewal: the worker claims nothing until the next success.
    The worker considers the lease lost one heartbeat before it lapses, so running attempts have
    that time to end.

    Args:
        database: the database with the worker's row.
        describe: returns the worker's row, with a new id at each call.
        lease_s: the duration of the lease, in seconds.
        heartbeat_s: the heartbeat interval, in seconds; at most a third of `lease_s`.
        on_doubt: called when a renewal has failed.
        on_lost: called when the lease is lost; all running attempts must end.
        on_held: called when the lease is acquired, and when it is renewed after being in doubt.
        counts: counts the lost leases.

    Attributes:
        draining: True if heartbeats report that the worker is draining.
        wake: ends the wait for the next heartbeat.
    """

    name = "lease"
    retry = _RETRY_S

    def __init__(
        self,
        *,
        database: Database,
        describe: Callable[[], NewWorker],
        lease_s: float,
        heartbeat_s: float,
        on_doubt: Callable[[], None],
        on_lost: Callable[[], None],
        on_held: Callable[[], None],
        counts: Counts,
    ) -> None:
        self._database = database
        self._describe = describe
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self.first_wait = self._interval()
        self._on_doubt = on_doubt
        self._on_lost = on_lost
        self._on_held = on_held
        self._counts = counts
        self._worker_id: WorkerId | None = None
        # The time at which the lease lapses if it is not renewed.
        self._ends_at = 0.0
        self._in_doubt = False
        self.draining = False
        self.wake = Wake()

    @property
    def worker_id(self) -> WorkerId:
        """The id of the worker while it holds the lease.

        Raises:
            Unavailable: the worker does not hold the lease.
        """
        if self._worker_id is None or not self.is_held(self._worker_id):
            raise Unavailable("postgresql")
        return self._worker_id

    def is_held(self, worker_id: WorkerId) -> bool:
        """Return whether the lease under this id is held.

        The result depends only on the time, so it is correct as soon as a suspended process
        resumes.
        """
        return self._worker_id == worker_id and _now() < self._ends_at

    def doubt(self) -> None:
        """Put the lease in doubt until its next renewal, and renew it at once."""
        if not self._in_doubt:
            self._doubt()
            self.wake.set()

    async def register(self) -> None:
        """Register the worker.

        Raises:
            Unavailable: the database did not answer.
        """
        worker = self._describe()
        # The lease in the database starts later, so a slow response only shortens the local lease.
        started = _now()
        async with self._database.transaction() as connection:
            await register_worker(connection, worker, lease=self._duration)
        self._worker_id, self._ends_at = worker.id, started + self._lease_s
        _log.info("worker_registered", worker_id=str(worker.id), slots=worker.slots)
        self._in_doubt = False
        self._on_held()

    async def run_once(self) -> float:
        """Renew the lease; return the seconds until the next heartbeat.

        Raises:
            Unavailable: the renewal failed.
        """
        await self.heartbeat()
        return random.uniform(*_RETRY_S) if self._in_doubt else self._interval()

    async def heartbeat(self) -> None:
        """Renew the lease, or register again after a loss. A failure puts the lease in doubt.

        Raises:
            Unavailable: the renewal failed.
        """
        # Attempts end one heartbeat before the lease lapses, so that no job runs twice.
        last = self._ends_at - self._heartbeat_s
        worker_id = self._worker_id
        try:
            if worker_id is None:
                async with asyncio.timeout(self._heartbeat_s):
                    await self.register()
                return
            started = _now()
            left = max(last - started, _MIN_TIMEOUT_S)
            # A renewal that takes longer could report success for a lease that has lapsed by then.
            async with (
                self._lost_after(left, worker_id),
                asyncio.timeout(min(self._heartbeat_s, left)),
                self._database.statement() as connection,
            ):
                renewed = await renew_lease(
                    connection,
                    worker_id=worker_id,
                    lease=self._duration,
                    draining=self.draining,
                )
        except Exception as fault:
            if not isinstance(fault, Unavailable | TimeoutError):
                _log.exception("lease_not_renewed")
            if not self._in_doubt:
                self._doubt()
            if worker_id is not None and _now() >= last:
                self._lose(worker_id, _NO_DATABASE)
            if isinstance(fault, Unavailable):
                raise
            raise Unavailable("postgresql") from fault
        if not renewed:
            self._lose(worker_id, "the lease had lapsed")
            return
        if worker_id != self._worker_id:
            # The response arrived after the loss; the attempts are ending.
            return
        self._ends_at = started + self._lease_s
        if self._in_doubt:
            self._in_doubt = False
            self._on_held()

    async def unregister(self) -> None:
        """Remove the worker's row when the process ends.

        Raises:
            Unavailable: the database did not answer.
        """
        worker_id, self._worker_id = self._worker_id, None
        if worker_id is not None:
            async with self._database.statement() as connection:
                await remove_worker(connection, worker_id=worker_id)

    @property
    def _duration(self) -> timedelta:
        return timedelta(seconds=self._lease_s)

    @asynccontextmanager
    async def _lost_after(self, seconds: float, worker_id: WorkerId) -> AsyncIterator[None]:
        """Mark the lease as lost if the block takes longer.

        A statement on a dead connection can take minutes to end, even when it is cancelled.
        """
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, self._lose, worker_id, _NO_DATABASE)
        try:
            yield
        finally:
            timer.cancel()

    def _interval(self) -> float:
        # The jitter spreads the heartbeats of workers that started together.
        return self._heartbeat_s * random.uniform(0.8, 1.0)

    def _doubt(self) -> None:
        self._in_doubt = True
        self._on_doubt()

    def _lose(self, worker_id: WorkerId, why: str) -> None:
        if worker_id != self._worker_id:
            # Another heartbeat has handled the loss.
            return
        _log.error("lease_lost", worker_id=str(worker_id), why=why)
        self._worker_id = None
        self._counts.lease_losses += 1
        if not self._in_doubt:
            self._doubt()
        self._on_lost()

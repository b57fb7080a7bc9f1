"""The short way: a job that comes while a pool has next to nothing to do goes straight to it.

It saves the way over the scheduler, most of what an idle platform takes from a submit to the start.
Delivering changes nothing in PostgreSQL, so it does no harm: a delivery too many dies at the claim,
and one that nobody claims is found by the scheduler at its next look, within a second. As soon as
anything waits in a pool's queue, order and room matter, and they are the scheduler's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

import structlog

from headrace_core.dispatch import Deliverer
from headrace_core.domain.delivery import Delivery
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.job import Job, rank_of
from headrace_core.domain.lifecycle import JobState
from headrace_core.settings import Settings
from headrace_core.store.database import Database
from headrace_core.store.ready import Lane, Pool, live_pools
from headrace_core.tasks import end_tasks
from headrace_core.wake import Topic, Waker

_log = structlog.get_logger()

# The most jobs of a commit that go the short way, and the most deliveries that may wait in a pool's
# queue: with more, jobs come faster than workers take them.
_FEW: Final = 16
_MOST_WAITING: Final = 4

# How old the knowledge of the pools may be, in seconds: from the first on it is read anew, and from
# the second on it counts for nothing.
_STALE: Final = 1.0
_TOO_OLD: Final = 3.0

# How long everything goes over the scheduler, in seconds, after a pool had enough to do or Redis
# could not be reached.
_BUSY: Final = 0.02
_LOST: Final = 1.0

# How long what is under way has to end, in seconds.
_END: Final = 2.0


class HandOff:
    """Hands jobs that were just stored to a pool, or to the scheduler.

    Args:
        settings: where Redis is.
        database: which knows the pools.
        waker: rings for the scheduler.
    """

    def __init__(self, *, settings: Settings, database: Database, waker: Waker) -> None:
        self._database = database
        self._waker = waker
        self._deliverer = Deliverer(settings)
        self._pools: Sequence[Pool] = ()
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._closed_until = 0.0
        self._giving: set[asyncio.Task[None]] = set()

    def offer(self, jobs: Sequence[Job]) -> None:
        """Sees to it that somebody runs jobs that were committed; never blocks and never fails."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at > _STALE and self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="pools")
        if (
            len(jobs) > _FEW
            or now < self._closed_until
            or now - self._read_at > _TOO_OLD
            or not self._pools
        ):
            self._waker.ring(Topic.JOBS)
            return
        giving = asyncio.create_task(self._give(jobs), name="hand-off")
        self._giving.add(giving)
        giving.add_done_callback(self._giving.discard)

    async def close(self) -> None:
        """Ends what is under way; the scheduler finds what was not given."""
        reading = () if self._reading is None else (self._reading,)
        await end_tasks(*self._giving, *reading, within=_END)
        await self._deliverer.close()

    async def _give(self, jobs: Sequence[Job]) -> None:
        given = 0
        try:
            for pool, deliveries in self._choose(jobs).items():
                if await self._deliverer.hand_off(pool, deliveries, most=_MOST_WAITING):
                    given += len(deliveries)
                else:
                    self._close_for(_BUSY)
        except Unavailable:
            self._close_for(_LOST)
        finally:
            if given < len(jobs):
                self._waker.ring(Topic.JOBS)

    def _choose(self, jobs: Sequence[Job]) -> dict[str, list[tuple[Delivery, float]]]:
        """By pool what goes to it, with its rank; what waits for its time or has no pool is out."""
        chosen: dict[str, list[tuple[Delivery, float]]] = {}
        for job in jobs:
            lane = Lane(job.tenant, job.queue, job.type)
            able = [pool.name for pool in self._pools if pool.serves(lane)]
            if able and job.state is JobState.QUEUED:
                delivery = Delivery(job_id=job.id, attempt=job.attempt + 1)
                chosen.setdefault(random.choice(able), []).append((delivery, rank_of(job)))
        return chosen

    def _close_for(self, seconds: float) -> None:
        self._closed_until = asyncio.get_running_loop().time() + seconds

    async def _read(self) -> None:
        try:
            async with self._database.statement() as conn:
                self._pools = await live_pools(conn)
            self._read_at = asyncio.get_running_loop().time()
        except Unavailable as fault:
            _log.debug("pools_not_read", dependency=fault.dependency)
        finally:
            self._reading = None

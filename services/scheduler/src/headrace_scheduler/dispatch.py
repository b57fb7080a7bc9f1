"""Delivers waiting jobs to the workers' pools, by rank, within their free slots."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from headrace_core.dispatch import Deliverer
from headrace_core.domain.delivery import Delivery
from headrace_core.store.database import Database
from headrace_core.store.ready import Pool, live_pools, ready_jobs, still_waiting
from headrace_scheduler.plan import plan

_log = structlog.get_logger()

# The longest wait, in seconds: a wake-up that was lost delays a job by no more.
_MAX_WAIT = 1.0
# The most jobs that one look delivers.
_MAX_BATCH = 1000


@dataclass(frozen=True, slots=True)
class _Underway:
    """A delivery that nobody has claimed yet: to which pool it went, and when."""

    pool: str
    since: float


class Dispatch:
    """Keeps the pools supplied.

    Delivering changes nothing in PostgreSQL, so what is underway is remembered here alone. A
    scheduler that has just begun to lead knows nothing of it and delivers again; the second
    delivery finds the first in its queue, or dies at the claim.

    Args:
        database: where jobs wait.
        deliverer: how they go.
        prefetch: deliveries per worker beyond its free slots.
        redeliver_after: seconds after which an unclaimed delivery is delivered again.
        clock: monotonic seconds.
    """

    name = "dispatch"

    def __init__(
        self,
        *,
        database: Database,
        deliverer: Deliverer,
        prefetch: int,
        redeliver_after: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._deliverer = deliverer
        self._prefetch = prefetch
        self._redeliver_after = redeliver_after
        self._clock = clock
        self._underway: dict[Delivery, _Underway] = {}

    async def run_once(self) -> float:
        """Delivers what there is room for; returns the seconds until the next look."""
        while await self._deliver_batch():
            pass
        return _MAX_WAIT

    async def _deliver_batch(self) -> bool:
        """Delivers the next jobs whose turn it is; tells whether there may be more."""
        async with self._database.statement() as connection:
            # In this order, so that a job that is claimed meanwhile counts twice and not nowhere.
            waiting = await still_waiting(connection, list(self._underway))
            pools = await live_pools(connection)
            self._forget(waiting, pools)
            room = self._room(pools)
            wanted = min(_MAX_BATCH, sum(room.values()))
            if not wanted:
                return False
            # What is underway still waits in PostgreSQL, at the head of its queue.
            limit = wanted + len(self._underway)
            jobs = await ready_jobs(connection, pools=list(room), limit=limit)
        fresh = [job for job in jobs if job.delivery not in self._underway][:wanted]
        planned = plan(fresh, pools, room)
        for pool, chosen in planned.items():
            await self._deliverer.deliver(pool, [(job.delivery, job.rank) for job in chosen])
            now = self._clock()
            self._underway.update((job.delivery, _Underway(pool, now)) for job in chosen)
        # A pool that was filled takes no part in the next batch, so that the jobs that wait for it
        # hide none that another pool has room for.
        return bool(planned) and len(jobs) == limit

    def _forget(self, waiting: set[Delivery], pools: list[Pool]) -> None:
        """Drops what was claimed or ended, and what has waited so long that it goes again."""
        now = self._clock()
        live = {pool.name for pool in pools}
        late = 0
        kept: dict[Delivery, _Underway] = {}
        for delivery, underway in self._underway.items():
            if delivery not in waiting:
                continue
            if now - underway.since > self._redeliver_after or underway.pool not in live:
                late += 1
                continue
            kept[delivery] = underway
        if late:
            _log.info("jobs_delivered_again", jobs=late)
        self._underway = kept

    def _room(self, pools: list[Pool]) -> dict[str, int]:
        """How many more deliveries each pool takes; a pool that is full is left out."""
        underway = Counter(underway.pool for underway in self._underway.values())
        room = {
            pool.name: (
                pool.slots - pool.running + pool.workers * self._prefetch - underway[pool.name]
            )
            for pool in pools
        }
        return {pool: places for pool, places in room.items() if places > 0}

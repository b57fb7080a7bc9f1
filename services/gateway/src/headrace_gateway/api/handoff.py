"""The short way: a job that comes while a pool has next to nothing to do goes straight to it.

It saves the way over the scheduler, two fifths of what an idle platform takes from a submit to the
start. Delivering changes nothing in PostgreSQL, so it does no harm: a delivery too many dies at the
claim, and one that nobody claims is found by the scheduler at its next look, within a second. Once
a pool's slots are taken or a few jobs wait in its queue, order and room matter, and they are the
scheduler's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from headrace_core.delivery import Deliverer
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.job import Job, rank_of
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.pool import Lane, Pool
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.api.registrations import Registrations

# The most jobs of a commit that go the short way, and the most deliveries that may wait in a pool's
# queue: with more, jobs come faster than workers take them.
_FEW: Final = 16
_MOST_WAITING: Final = 4

# How long everything goes over the scheduler, in seconds, after a pool had enough to do or a server
# could not be reached, and how long that may take to be found out.
_BUSY: Final = 0.02
_LOST: Final = 5.0
_PATIENCE: Final = 0.5

# How long what is under way has to end, in seconds.
_END: Final = 2.0


class HandOff:
    """Hands jobs that were just stored to a pool, or to the scheduler.

    Args:
        settings: where Redis is.
        database: names the installation.
        registrations: the live pools.
        bus: wakes the scheduler.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        registrations: Registrations,
        bus: WakeBus,
    ) -> None:
        self._registrations = registrations
        self._bus = bus
        self._deliverer = Deliverer(settings, identify=database.installation_id)
        # While less than this waits in a pool's queue. Without a prefetch the scheduler keeps the
        # queues empty while jobs wait in PostgreSQL: there an empty queue says nothing.
        self._most = min(_MOST_WAITING, settings.dispatch_prefetch)
        self._closed_until = 0.0
        self._giving: set[asyncio.Task[None]] = set()

    def offer(self, jobs: Sequence[Job]) -> None:
        """Sees to it that somebody runs jobs that were committed; never blocks and never fails."""
        now = asyncio.get_running_loop().time()
        if len(jobs) > _FEW or now < self._closed_until or not self._most:
            self._bus.publish(Topic.JOBS)
            return
        giving = asyncio.create_task(self._give(jobs), name="hand-off")
        self._giving.add(giving)
        giving.add_done_callback(self._giving.discard)

    async def close(self) -> None:
        """Ends what is under way; the scheduler finds what was not given."""
        await end_tasks(*self._giving, within=_END)
        await self._deliverer.close()

    async def _give(self, jobs: Sequence[Job]) -> None:
        given = 0
        try:
            async with asyncio.timeout(_PATIENCE):
                for pool, deliveries in self._choose(
                    jobs, await self._registrations.pools()
                ).items():
                    if await self._deliverer.hand_off(pool, deliveries, most=self._most):
                        given += len(deliveries)
                    else:
                        self._close_for(_BUSY)
        except (Unavailable, TimeoutError):
            self._close_for(_LOST)
        finally:
            if given < len(jobs):
                self._bus.publish(Topic.JOBS)

    def _choose(
        self, jobs: Sequence[Job], pools: Sequence[Pool]
    ) -> dict[str, list[tuple[AttemptKey, float]]]:
        """By pool what goes to it, with its rank; what waits for its time or has no pool is out."""
        chosen: dict[str, list[tuple[AttemptKey, float]]] = {}
        for job in jobs:
            lane = Lane(job.tenant, job.queue, job.type)
            able = [pool for pool in pools if pool.running < pool.slots and pool.serves(lane)]
            if able and job.state is JobState.QUEUED:
                pool = max(able, key=lambda pool: pool.slots - pool.running)
                delivery = AttemptKey(job.id, job.attempt + 1)
                chosen.setdefault(pool.name, []).append((delivery, rank_of(job)))
        return chosen

    def _close_for(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        self._closed_until = max(self._closed_until, now + seconds)

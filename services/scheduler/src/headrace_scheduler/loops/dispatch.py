"""Delivers waiting jobs to the workers' pools, by rank, within their free slots."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from headrace_core.delivery import Deliverer
from headrace_core.domain.delivery import Delivery
from headrace_core.store.jobs.ready import Head, Lane, Pool, live_pools, ready_heads
from headrace_core.store.sql.database import Database
from headrace_scheduler.loops.plan import plan

_log = structlog.get_logger()

# The longest wait, in seconds: a wake-up that was lost delays a job by no more.
_MAX_WAIT = 1.0
# The most jobs that one look asks for, and the fewest: twice as many as the one before delivered,
# so that hundreds of lanes are not read in vain. What is missed comes with the next look, at once.
_MAX_BATCH = 1000
_MIN_BATCH = 100

# Between two looks, in seconds. A look costs much the same whether it delivers one job or hundreds,
# so the more there are, the longer: this much for each that the last look delivered, and while more
# waits than there is room for, as long as the workers take for a share of what they can hold.
_BREATH = (0.001, 0.02)
_FOR_EACH = 0.0002
_SHARE = 0.3
_FULL_BREATH = 0.05


@dataclass(frozen=True, slots=True)
class _Underway:
    """A delivery that nobody has claimed yet: to which pool it went, and when."""

    pool: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What a look has come to.

    How many it delivered, how many the pools can hold in all, whether it knew of all whose turn it
    was, and whether some found no room.
    """

    delivered: int
    capacity: int
    whole: bool
    full: bool


class Dispatch:
    """Keeps the pools supplied.

    Delivering changes nothing in PostgreSQL, so what is underway is remembered here alone. A
    scheduler that has just begun to lead knows nothing of it and delivers again; the second
    delivery finds the first in its queue, or dies at the claim.

    Args:
        database: where jobs wait.
        deliverer: how they go.
        term: the scheduler's.
        prefetch: deliveries per worker beyond its free slots.
        redeliver_after: seconds after which an unclaimed delivery is delivered again.
        clock: monotonic seconds.
    """

    name = "dispatch"
    # Whether everything that waited found room at the last look: then no free slot is news.
    supplied = False

    def __init__(
        self,
        *,
        database: Database,
        deliverer: Deliverer,
        term: int,
        prefetch: int,
        redeliver_after: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._deliverer = deliverer
        self._term = term
        self._prefetch = prefetch
        self._redeliver_after = redeliver_after
        self._clock = clock
        self._underway: dict[Lane, dict[Delivery, _Underway]] = {}
        self._looked = clock()
        self._batch = _MIN_BATCH
        self.breath = _BREATH[0]

    async def run_once(self) -> float:
        """Delivers what there is room for; returns the seconds until the next look."""
        # A slot that becomes free meanwhile may be one that this look did not see.
        self.supplied = False
        began = self._clock()
        delivered, whole = 0, False
        while not whole:
            look = await self._deliver_batch()
            delivered += look.delivered
            whole = look.whole
            self._batch = min(max(_MIN_BATCH, 2 * look.delivered), _MAX_BATCH)
        self.supplied = not look.full
        self._pace(delivered, look, took=self._clock() - began)
        return _MAX_WAIT

    def _pace(self, delivered: int, look: _Look, *, took: float) -> None:
        now = self._clock()
        elapsed, self._looked = now - self._looked, now
        low, high = _BREATH
        if delivered == 0:
            # Rings for what nobody can run, or for slots that nothing waits for.
            breath = 2 * self.breath
        elif look.full:
            high = _FULL_BREATH
            breath = _SHARE * look.capacity * elapsed / delivered
        else:
            breath = _FOR_EACH * delivered
        # No more than half of its time goes into looks.
        self.breath = min(max(low, breath, took), high)

    async def _deliver_batch(self) -> _Look:
        """Delivers the next jobs whose turn it is."""
        async with self._database.statement() as connection:
            pools = await live_pools(connection, term=self._term)
            most = {
                pool.name: pool.slots - pool.running + pool.workers * self._prefetch
                for pool in pools
            }
            able = [name for name, places in most.items() if places > 0]
            if not able:
                return _Look(delivered=0, capacity=0, whole=True, full=True)
            # A job that is claimed between the two counts nowhere: one too many goes to Redis, and
            # waits there for the next slot.
            heads = await ready_heads(
                connection,
                pools=able,
                limit=min(self._batch, sum(most[name] for name in able)),
                # What is underway still waits in PostgreSQL, at the head of its lane.
                behind={lane: len(known) for lane, known in self._underway.items()},
            )
        fresh = self._compare(heads, pools, able)
        underway = Counter(
            entry.pool for known in self._underway.values() for entry in known.values()
        )
        room = {name: places - underway[name] for name, places in most.items()}
        planned = plan(fresh, pools, room)
        for name, jobs in planned.jobs.items():
            await self._deliverer.deliver(name, [(job.delivery, job.rank) for job in jobs])
            entry = _Underway(name, self._clock())
            for job in jobs:
                self._underway.setdefault(job.lane, {})[job.delivery] = entry
        return _Look(
            delivered=sum(map(len, planned.jobs.values())),
            capacity=sum(pool.slots + pool.workers * self._prefetch for pool in pools),
            whole=planned.whole,
            # Of a pool that takes nothing it is not known what waits for it.
            full=planned.full or len(able) < len(pools),
        )

    def _compare(
        self, heads: Sequence[Head], pools: Sequence[Pool], read: Sequence[str]
    ) -> list[Head]:
        """Drops from what is underway what no longer waits, and what has waited so long that it
        goes again; returns the heads without what is underway.
        """
        now = self._clock()
        live = {pool.name for pool in pools}
        late = 0
        kept: dict[Lane, dict[Delivery, _Underway]] = self._unread(heads, pools, read)
        fresh: list[Head] = []
        for head in heads:
            known = self._underway.get(head.lane, {})
            still: dict[Delivery, _Underway] = {}
            ranks, deliveries = [], []
            for rank, delivery in zip(head.ranks, head.deliveries, strict=True):
                entry = known.get(delivery)
                if entry is not None and entry.pool in live:
                    if now - entry.since <= self._redeliver_after:
                        still[delivery] = entry
                        continue
                    late += 1
                ranks.append(rank)
                deliveries.append(delivery)
            if still:
                kept[head.lane] = still
            fresh.append(Head(lane=head.lane, ranks=ranks, deliveries=deliveries, whole=head.whole))
        if late:
            _log.info("jobs_delivered_again", jobs=late)
        self._underway = kept
        return fresh

    def _unread(
        self, heads: Sequence[Head], pools: Sequence[Pool], read: Sequence[str]
    ) -> dict[Lane, dict[Delivery, _Underway]]:
        """What is underway in lanes of which nothing is known, since their pools are full."""
        seen = {head.lane for head in heads}
        readable = [pool for pool in pools if pool.name in set(read)]
        full = {pool.name for pool in pools} - set(read)
        kept: dict[Lane, dict[Delivery, _Underway]] = {}
        for lane, known in self._underway.items():
            if lane in seen or any(pool.serves(lane) for pool in readable):
                continue
            left = {delivery: entry for delivery, entry in known.items() if entry.pool in full}
            if left:
                kept[lane] = left
        return kept

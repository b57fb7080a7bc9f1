"""Deliver waiting jobs to the free slots of pools, by rank."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import structlog

from headrace_core.delivery import Deliverer
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.pool import Head, Lane, Pool, ReadyJob
from headrace_core.runtime.loop import Loop
from headrace_core.store.jobs.waiting import live_pools, ready_heads
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic
from headrace_scheduler.timing import DEFAULT, Timing

_log = structlog.get_logger()

# The minimum and maximum page size, in jobs. A page has twice as many jobs as the last page
# delivered, so a run over hundreds of lanes reads few jobs that it cannot deliver. The loop reads
# the next page at once.
_MIN_PAGE_SIZE: Final = 100
_MAX_PAGE_SIZE: Final = 1000

# Pause between two runs, in seconds. A run costs about the same for one job as for hundreds, so the
# pause grows with the number of jobs that the last run delivered. While all slots are busy, the
# pause is a share of the time that the workers need to end as many jobs as they can hold.
_PAUSE_RANGE: Final = (0.001, 0.02)
_PAUSE_PER_JOB: Final = 0.0002
_PAUSE_SHARE: Final = 0.3
_MAX_PAUSE_WHEN_FULL: Final = 0.05


@dataclass(frozen=True, slots=True)
class _UnclaimedDelivery:
    """A delivery that no worker has claimed yet: its pool and its time."""

    pool: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """The result of one page.

    Attributes:
        delivered: the number of delivered jobs.
        capacity: the number of deliveries that all pools can hold together.
        whole: True if the page contained all jobs that could be delivered.
        full: True if there was no room for some jobs.
    """

    delivered: int
    capacity: int
    whole: bool
    full: bool


class Dispatch(Loop):
    """Keep the pools supplied with deliveries.

    A delivery changes nothing in PostgreSQL. Only this object records unclaimed deliveries. A new
    leader has no such records, and delivers these jobs again. The second delivery replaces the
    first in the queue, or its claim is refused.

    Args:
        database: the store.
        deliverer: writes to the queues.
        term: the term of the scheduler.
        prefetch: deliveries per worker beyond its free slots.
        redeliver_after: seconds after which an unclaimed delivery is repeated.
        timing: the longest wait of the loop.
        clock: monotonic seconds.
    """

    name = "dispatch"
    topics = (Topic.JOBS, Topic.SLOTS)
    fallbacks = MappingProxyType({"redis": "workers claim jobs from postgresql without deliveries"})

    def __init__(
        self,
        *,
        database: Database,
        deliverer: Deliverer,
        term: int,
        prefetch: int,
        redeliver_after: float,
        timing: Timing = DEFAULT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._deliverer = deliverer
        self._term = term
        self._prefetch = prefetch
        self._redeliver_after = redeliver_after
        self._timing = timing
        self._clock = clock
        self._unclaimed: dict[Lane, dict[AttemptKey, _UnclaimedDelivery]] = {}
        self._last_run = clock()
        self._page_size = _MIN_PAGE_SIZE
        # True if there was room for every waiting job in the last run.
        self._is_supplied = False
        self.pause = _PAUSE_RANGE[0]

    def accepts(self, topic: str) -> bool:
        """Return whether to run after a wake-up. Free slots require a run only while jobs wait."""
        return topic != Topic.SLOTS or not self._is_supplied

    async def run_once(self) -> float:
        """Deliver jobs while pools have room; return the seconds until the next run."""
        # A slot that becomes free while this run reads can be missed.
        self._is_supplied = False
        start = self._clock()
        delivered, whole = 0, False
        while not whole:
            page = await self._deliver_page()
            delivered += page.delivered
            whole = page.whole
            self._page_size = min(max(_MIN_PAGE_SIZE, 2 * page.delivered), _MAX_PAGE_SIZE)
        self._is_supplied = not page.full
        self._set_pause(delivered, page, duration=self._clock() - start)
        return self._timing.dispatch

    def _set_pause(self, delivered: int, page: _Page, *, duration: float) -> None:
        now = self._clock()
        elapsed, self._last_run = now - self._last_run, now
        low, high = _PAUSE_RANGE
        if delivered == 0:
            # The wake-ups reported jobs that no worker can run, or slots that no job needs.
            pause = 2 * self.pause
        elif page.full:
            high = _MAX_PAUSE_WHEN_FULL
            pause = _PAUSE_SHARE * page.capacity * elapsed / delivered
        else:
            pause = _PAUSE_PER_JOB * delivered
        # Runs use at max_deliveries half of the time.
        self.pause = min(max(low, pause, duration), high)

    async def _deliver_page(self) -> _Page:
        """Deliver the next jobs by rank."""
        async with self._database.statement() as connection:
            pools = await live_pools(connection, term=self._term)
            max_deliveries = {
                pool.name: pool.slots - pool.running + pool.workers * self._prefetch
                for pool in pools
            }
            open_pools = [name for name, count in max_deliveries.items() if count > 0]
            if not open_pools:
                return _Page(delivered=0, capacity=0, whole=True, full=True)
            # Neither statement counts a job that is claimed between them. Then one extra delivery
            # waits in Redis for the next slot.
            heads = await ready_heads(
                connection,
                pools=open_pools,
                limit=min(self._page_size, sum(max_deliveries[name] for name in open_pools)),
                # Unclaimed deliveries still wait in PostgreSQL, at the head of their lanes.
                known={lane: len(known) for lane, known in self._unclaimed.items()},
            )
        undelivered = self._without_unclaimed(heads, pools, open_pools)
        unclaimed = Counter(
            entry.pool for known in self._unclaimed.values() for entry in known.values()
        )
        room = {name: count - unclaimed[name] for name, count in max_deliveries.items()}
        planned = plan(undelivered, pools, room)
        for name, jobs in planned.jobs.items():
            await self._deliverer.deliver(name, [(job.key, job.rank) for job in jobs])
            entry = _UnclaimedDelivery(name, self._clock())
            for job in jobs:
                self._unclaimed.setdefault(job.lane, {})[job.key] = entry
        return _Page(
            delivered=sum(map(len, planned.jobs.values())),
            capacity=sum(pool.slots + pool.workers * self._prefetch for pool in pools),
            whole=planned.whole,
            # The page omits jobs that wait for a full pool.
            full=planned.full or len(open_pools) < len(pools),
        )

    def _without_unclaimed(
        self, heads: Sequence[Head], pools: Sequence[Pool], read: Sequence[str]
    ) -> list[Head]:
        """Return the heads without unclaimed deliveries.

        Forget the deliveries that are claimed or overdue.
        """
        now = self._clock()
        live = {pool.name for pool in pools}
        overdue = 0
        kept: dict[Lane, dict[AttemptKey, _UnclaimedDelivery]] = self._unclaimed_in_unread_lanes(
            heads, pools, read
        )
        undelivered: list[Head] = []
        for head in heads:
            known = self._unclaimed.get(head.lane, {})
            pending: dict[AttemptKey, _UnclaimedDelivery] = {}
            ranks, keys = [], []
            for rank, key in zip(head.ranks, head.keys, strict=True):
                entry = known.get(key)
                if entry is not None and entry.pool in live:
                    if now - entry.since <= self._redeliver_after:
                        pending[key] = entry
                        continue
                    overdue += 1
                ranks.append(rank)
                keys.append(key)
            if pending:
                kept[head.lane] = pending
            undelivered.append(Head(lane=head.lane, ranks=ranks, keys=keys, whole=head.whole))
        if overdue:
            _log.info("jobs_delivered_again", jobs=overdue)
        self._unclaimed = kept
        return undelivered

    def _unclaimed_in_unread_lanes(
        self, heads: Sequence[Head], pools: Sequence[Pool], read: Sequence[str]
    ) -> dict[Lane, dict[AttemptKey, _UnclaimedDelivery]]:
        """Return the unclaimed deliveries of full pools in lanes that were not read."""
        seen = {head.lane for head in heads}
        readable = [pool for pool in pools if pool.name in set(read)]
        full = {pool.name for pool in pools} - set(read)
        kept: dict[Lane, dict[AttemptKey, _UnclaimedDelivery]] = {}
        for lane, known in self._unclaimed.items():
            if lane in seen or any(pool.serves(lane) for pool in readable):
                continue
            left = {delivery: entry for delivery, entry in known.items() if entry.pool in full}
            if left:
                kept[lane] = left
        return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The jobs assigned to each pool.

    Attributes:
        jobs: the jobs by pool name, ordered by rank.
        whole: False if the plan ends with the last known job of a lane. Unknown jobs of this lane
            may rank before the jobs of other lanes.
        full: True if there was no room for some jobs.
    """

    jobs: Mapping[str, Sequence[ReadyJob]]
    whole: bool
    full: bool


def plan(heads: Sequence[Head], pools: Iterable[Pool], room: Mapping[str, int]) -> Plan:
    """Assign jobs to pools by rank.

    Each job goes to the pool with the most room among those that serve its lane. A job for which no
    pool has room is skipped, so it does not delay the jobs of other pools.

    Args:
        heads: the next jobs of the lanes, without unclaimed deliveries.
        pools: the live pools.
        room: the number of deliveries that each pool can still hold, by pool name.
    """
    left = {pool.name: room[pool.name] for pool in pools if room.get(pool.name, 0) > 0}
    candidates: dict[Lane, list[str]] = {}
    for head in heads:
        candidates[head.lane] = [
            pool.name for pool in pools if pool.name in left and pool.serves(head.lane)
        ]
    last = {head.keys[-1] for head in heads if not head.whole and head.keys}
    planned: dict[str, list[ReadyJob]] = {}
    full = False
    for job in _by_rank(heads):
        names = [name for name in candidates[job.lane] if left[name] > 0]
        if not names:
            full = True
            continue
        name = names[0] if len(names) == 1 else max(names, key=left.__getitem__)
        left[name] -= 1
        planned.setdefault(name, []).append(job)
        if job.key in last:
            return Plan(jobs=planned, whole=False, full=full)
    return Plan(jobs=planned, whole=True, full=full)


def _by_rank(heads: Sequence[Head]) -> Iterable[ReadyJob]:
    # The jobs of one head are already sorted.
    return heads[0] if len(heads) == 1 else sorted(job for head in heads for job in head)

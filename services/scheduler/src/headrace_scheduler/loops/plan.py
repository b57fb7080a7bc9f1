"""The assignment of waiting jobs to pools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace_core.domain.pool import Head, Lane, Pool, ReadyJob


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

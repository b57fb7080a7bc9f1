"""Which waiting job goes to which pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace_core.store.jobs.ready import Head, Lane, Pool, ReadyJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """By pool's name its jobs, in the order of their turn.

    `whole` is false when it stopped at the last known job of a lane, since those behind it may come
    before others that wait. `full` says that some found no room.
    """

    jobs: Mapping[str, Sequence[ReadyJob]]
    whole: bool
    full: bool


def plan(heads: Sequence[Head], pools: Iterable[Pool], room: Mapping[str, int]) -> Plan:
    """Spreads jobs over pools, in the order of their turn.

    A job goes to the pool with the most room among those that can run it. One that finds no room
    is passed over, so that it holds up nothing behind it that runs elsewhere.

    Args:
        heads: the next jobs of the lanes, those left out that are underway.
        pools: the live pools.
        room: how many more deliveries each pool takes, by name.
    """
    left = {pool.name: room[pool.name] for pool in pools if room.get(pool.name, 0) > 0}
    able: dict[Lane, list[str]] = {}
    for head in heads:
        able[head.lane] = [
            pool.name for pool in pools if pool.name in left and pool.serves(head.lane)
        ]
    last = {head.deliveries[-1] for head in heads if not head.whole and head.deliveries}
    planned: dict[str, list[ReadyJob]] = {}
    full = False
    for job in _in_turn(heads):
        names = [name for name in able[job.lane] if left[name] > 0]
        if not names:
            full = True
            continue
        name = names[0] if len(names) == 1 else max(names, key=left.__getitem__)
        left[name] -= 1
        planned.setdefault(name, []).append(job)
        if job.delivery in last:
            return Plan(jobs=planned, whole=False, full=full)
    return Plan(jobs=planned, whole=True, full=full)


def _in_turn(heads: Sequence[Head]) -> Iterable[ReadyJob]:
    # A head is in order by itself.
    return heads[0] if len(heads) == 1 else sorted(job for head in heads for job in head)

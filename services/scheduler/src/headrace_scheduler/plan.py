"""Which waiting job goes to which pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from headrace_core.store.ready import Pool, ReadyJob


def plan(
    jobs: Sequence[ReadyJob], pools: Iterable[Pool], room: Mapping[str, int]
) -> dict[str, list[ReadyJob]]:
    """Spreads jobs over pools, in the order of their turn.

    A job goes to the pool with the most room among those that can run it. One that finds no room
    is passed over, so that it holds up nothing behind it that runs elsewhere.

    Args:
        jobs: in the order of their turn.
        pools: the live pools.
        room: how many more deliveries each pool takes, by name.

    Returns:
        By pool's name its jobs, in the order of their turn.
    """
    left = {pool: room.get(pool.name, 0) for pool in pools}
    planned: dict[str, list[ReadyJob]] = {}
    for job in jobs:
        able = [pool for pool, rest in left.items() if rest > 0 and pool.serves(job)]
        if not able:
            continue
        pool = max(able, key=left.__getitem__)
        left[pool] -= 1
        planned.setdefault(pool.name, []).append(job)
    return planned

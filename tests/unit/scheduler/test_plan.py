"""The assignment of waiting jobs to pools."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.pool import Head, Lane, Pool, ReadyJob
from headrace_scheduler.loops.dispatch import plan

TENANTS = ("one", "two")
QUEUES = ("mail", "reports", "slow")
TYPES = ("a", "b", "c", "d")


def job(rank: float = 0.0, **fields: str) -> ReadyJob:
    lane = Lane(**{"tenant": "one", "queue": "mail", "type": "a", **fields})
    return ReadyJob(rank, AttemptKey(JobId(uuid7()), 1), lane)


def to_heads(jobs: list[ReadyJob], *, whole: bool = True) -> list[Head]:
    lanes: dict[Lane, list[ReadyJob]] = {}
    for each in sorted(jobs):
        lanes.setdefault(each.lane, []).append(each)
    return [
        Head(
            lane=lane,
            ranks=[each.rank for each in members],
            keys=[each.key for each in members],
            whole=whole,
        )
        for lane, members in lanes.items()
    ]


def pool(name: str, **fields: object) -> Pool:
    values = {
        "tenants": frozenset({"one"}),
        "queues": frozenset(),
        "types": frozenset("a"),
        "workers": 1,
        "slots": 1,
        "running": 0,
        **fields,
    }
    return Pool(name=name, **values)  # type: ignore[arg-type]


jobs = st.lists(
    st.builds(
        job,
        rank=st.integers(0, 5).map(float),
        tenant=st.sampled_from(TENANTS),
        queue=st.sampled_from(QUEUES),
        type=st.sampled_from(TYPES),
    ),
    max_size=40,
)
pool_options = st.fixed_dictionaries(
    {
        "tenants": st.frozensets(st.sampled_from(TENANTS), max_size=2),
        "queues": st.frozensets(st.sampled_from(QUEUES), max_size=2),
        "types": st.frozensets(st.sampled_from(TYPES), max_size=3),
    }
)
pools = st.lists(pool_options, max_size=5).map(
    lambda options: [pool(f"pool {number}", **kind) for number, kind in enumerate(options)]
)
rooms = st.lists(st.integers(0, 8), min_size=5, max_size=5).map(
    lambda slots: {f"pool {number}": free for number, free in enumerate(slots)}
)


@given(jobs, pools, rooms)
def test_plan_respects_room_pools_and_order(
    jobs: list[ReadyJob], pools: list[Pool], room: dict[str, int]
) -> None:
    planned = plan(to_heads(jobs), pools, room).jobs
    by_name = {each.name: each for each in pools}
    position = {each.key: number for number, each in enumerate(sorted(jobs))}
    chosen = [each.key for batch in planned.values() for each in batch]

    # No job is assigned twice, to a pool that does not serve it, or to a full pool.
    assert len(chosen) == len(set(chosen))
    for name, batch in planned.items():
        assert 0 < len(batch) <= room[name]
        assert all(by_name[name].serves(each.lane) for each in batch)
        # A batch is in rank order.
        assert list(batch) == sorted(batch, key=lambda each: position[each.key])

    # If a job is skipped, every pool that serves it is full of earlier jobs.
    for each in jobs:
        if each.key in chosen:
            continue
        for serving in (name for name, one in by_name.items() if one.serves(each.lane)):
            batch = planned.get(serving, [])
            assert len(batch) == room[serving]
            assert all(position[other.key] < position[each.key] for other in batch)


def test_job_is_assigned_to_the_pool_with_most_room() -> None:
    pools = [pool("small"), pool("large")]
    planned = plan(to_heads([job() for _ in range(6)]), pools, {"small": 2, "large": 6})
    assert {name: len(batch) for name, batch in planned.jobs.items()} == {"small": 1, "large": 5}
    assert not planned.full


def test_job_without_room_delays_no_other() -> None:
    waiting, next_job = job(type="a"), job(rank=1.0, type="b")
    pools = [pool("full"), pool("free", types=frozenset("b"))]
    planned = plan(to_heads([waiting, next_job]), pools, {"full": 0, "free": 1})
    assert planned.jobs == {"free": [next_job]}
    assert planned.whole
    assert planned.full


def test_pool_without_room_entry_gets_nothing() -> None:
    assert plan(to_heads([job()]), [pool("unknown")], {}).jobs == {}


def test_plan_ends_where_unknown_jobs_may_be_next() -> None:
    first, last = job(type="a"), job(rank=1.0, type="a")
    later = job(rank=2.0, type="b")
    heads = to_heads([first, last], whole=False) + to_heads([later])
    one = pool("one", types=frozenset("ab"))
    planned = plan(heads, [one], {"one": 9})
    assert planned.jobs == {"one": [first, last]}
    assert not planned.whole
    # Without room for these jobs, the unknown jobs of their lane are irrelevant.
    planned = plan(heads, [pool("a"), pool("b", types=frozenset("b"))], {"a": 1, "b": 9})
    assert planned.jobs == {"a": [first], "b": [later]}
    assert planned.whole

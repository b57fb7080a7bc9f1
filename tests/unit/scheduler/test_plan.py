"""Which waiting job goes to which pool."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.ids import JobId, uuid7
from headrace_core.store.ready import Pool, ReadyJob
from headrace_scheduler.plan import plan

TENANTS = ("one", "two")
QUEUES = ("mail", "reports", "slow")
TYPES = ("a", "b", "c", "d")


def job(**fields: object) -> ReadyJob:
    said = {"tenant": "one", "queue": "mail", "type": "a", "attempt": 0, "rank": 0.0, **fields}
    return ReadyJob(id=JobId(uuid7()), **said)  # type: ignore[arg-type]


def pool(name: str, **fields: object) -> Pool:
    said = {
        "tenant": "one",
        "queues": frozenset(),
        "types": frozenset("a"),
        "workers": 1,
        "slots": 1,
        "running": 0,
        **fields,
    }
    return Pool(name=name, **said)  # type: ignore[arg-type]


jobs = st.lists(
    st.builds(
        job,
        tenant=st.sampled_from(TENANTS),
        queue=st.sampled_from(QUEUES),
        type=st.sampled_from(TYPES),
    ),
    max_size=40,
)
kinds = st.fixed_dictionaries(
    {
        "tenant": st.sampled_from(TENANTS),
        "queues": st.frozensets(st.sampled_from(QUEUES), max_size=2),
        "types": st.frozensets(st.sampled_from(TYPES), max_size=3),
    }
)
pools = st.lists(kinds, max_size=5).map(
    lambda said: [pool(f"pool {number}", **kind) for number, kind in enumerate(said)]
)
rooms = st.lists(st.integers(0, 8), min_size=5, max_size=5).map(
    lambda places: {f"pool {number}": left for number, left in enumerate(places)}
)


@given(jobs, pools, rooms)
def test_a_plan_keeps_all_its_promises(
    jobs: list[ReadyJob], pools: list[Pool], room: dict[str, int]
) -> None:
    planned = plan(jobs, pools, room)
    by_name = {each.name: each for each in pools}
    turn = {each.id: number for number, each in enumerate(jobs)}
    chosen = [each.id for batch in planned.values() for each in batch]

    # Nothing goes twice, and nothing to a pool that cannot run it or has no room.
    assert len(chosen) == len(set(chosen))
    for name, batch in planned.items():
        assert 0 < len(batch) <= room[name]
        assert all(by_name[name].serves(each) for each in batch)
        # In the order of their turn.
        assert batch == sorted(batch, key=lambda each: turn[each.id])

    # What was passed over found every pool that could run it full, with nothing but jobs whose turn
    # was before its own.
    for each in jobs:
        if each.id in chosen:
            continue
        for able in (name for name, one in by_name.items() if one.serves(each)):
            batch = planned.get(able, [])
            assert len(batch) == room[able]
            assert all(turn[other.id] < turn[each.id] for other in batch)


def test_a_job_goes_where_there_is_most_room() -> None:
    pools = [pool("small"), pool("large")]
    planned = plan([job() for _ in range(6)], pools, {"small": 2, "large": 6})
    assert {name: len(batch) for name, batch in planned.items()} == {"small": 1, "large": 5}


def test_a_job_without_room_holds_up_nothing_behind_it() -> None:
    waiting, next_one = job(type="a"), job(type="b")
    pools = [pool("full"), pool("free", types=frozenset("b"))]
    planned = plan([waiting, next_one], pools, {"full": 0, "free": 1})
    assert planned == {"free": [next_one]}


def test_a_pool_that_the_room_does_not_name_gets_nothing() -> None:
    assert plan([job()], [pool("unknown")], {}) == {}

"""Group commit: each caller gets its own result, even if other callers fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.errors import ShuttingDown, Unavailable
from headrace_core.store.sql import group_commit
from headrace_core.store.sql.group_commit import GroupCommit, Overloaded


class ControlledCommit:
    """A commit function that a test can block, release and fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: dict[int, Exception] = {}

    async def commit(self, items: list[int]) -> list[str]:
        self.batches.append(items)
        self.started.set()
        await self.gate.wait()
        for item in items:
            if item in self.failures:
                raise self.failures[item]
        return [f"done {item}" for item in items]

    def hold(self) -> None:
        self.gate.clear()

    def release(self) -> None:
        self.gate.set()


def commits_to(store: ControlledCommit, **bounds: object) -> GroupCommit[int, str]:
    options: dict = {"max_batch": 100, "max_pending": 1000, **bounds}
    return GroupCommit(commit=store.commit, **options)


async def submit_all(commits: GroupCommit[int, str], items: Iterable[int]) -> list[asyncio.Task]:
    """Submit each item in its own task; return once all tasks are waiting."""
    tasks = [asyncio.create_task(commits.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_item_without_a_running_commit_is_committed_at_once():
    store = ControlledCommit()
    assert await commits_to(store).submit(1) == "done 1"
    assert store.batches == [[1]]


async def test_items_submitted_during_a_commit_form_one_ordered_batch():
    store = ControlledCommit()
    commits = commits_to(store)
    store.hold()
    first = asyncio.create_task(commits.submit(0))
    await store.started.wait()
    rest = await submit_all(commits, range(1, 50))
    store.release()
    assert await asyncio.gather(first, *rest) == [f"done {n}" for n in range(50)]
    assert store.batches == [[0], list(range(1, 50))]


async def test_items_of_one_loop_iteration_share_a_commit():
    store = ControlledCommit()
    commits = commits_to(store)
    await asyncio.gather(*(commits.submit(n) for n in range(10)))
    assert store.batches == [list(range(10))]


async def test_batch_never_exceeds_its_maximum_length():
    store = ControlledCommit()
    commits = commits_to(store, max_batch=4)
    await asyncio.gather(*(commits.submit(n) for n in range(10)))
    assert store.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_batch_weight_is_limited_except_for_a_heavy_item():
    store = ControlledCommit()
    commits = commits_to(store, weigh=lambda item: item, max_batch_weight=10)
    await asyncio.gather(*(commits.submit(n) for n in (4, 6, 5, 25, 1, 2)))
    assert store.batches == [[4, 6], [5], [25], [1, 2]]


async def test_failed_batch_fails_only_its_own_callers():
    store = ControlledCommit()
    commits = commits_to(store, max_batch=2)
    store.failures[2] = Unavailable("postgresql")
    results = await asyncio.gather(*(commits.submit(n) for n in range(6)), return_exceptions=True)
    assert results[:2] == ["done 0", "done 1"]
    assert [type(result) for result in results[2:4]] == [Unavailable, Unavailable]
    assert results[4:] == ["done 4", "done 5"]


async def test_commit_after_a_failed_one_succeeds():
    store = ControlledCommit()
    commits = commits_to(store)
    store.failures[1] = Unavailable("postgresql")
    with pytest.raises(Unavailable):
        await commits.submit(1)
    assert await commits.submit(2) == "done 2"


async def test_missing_results_fail_their_callers():
    async def commit(items: list[int]) -> list[str]:
        return ["done"] * (len(items) - 1)

    commits: GroupCommit[int, str] = GroupCommit(commit=commit, max_batch=10, max_pending=10)
    results = await asyncio.gather(*(commits.submit(n) for n in range(3)), return_exceptions=True)
    assert isinstance(results[-1], ValueError)


async def test_caller_cancelled_before_the_commit_withdraws_its_item():
    store = ControlledCommit()
    commits = commits_to(store)
    store.hold()
    first = asyncio.create_task(commits.submit(0))
    await store.started.wait()
    one, two, three = await submit_all(commits, (1, 2, 3))
    two.cancel()
    with pytest.raises(asyncio.CancelledError):
        await two
    store.release()
    assert await asyncio.gather(first, one, three) == ["done 0", "done 1", "done 3"]
    assert store.batches == [[0], [1, 3]]


async def test_caller_cancelled_during_the_commit_affects_no_other():
    store = ControlledCommit()
    commits = commits_to(store)
    store.hold()
    one, two = await submit_all(commits, (1, 2))
    await store.started.wait()
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    store.release()
    assert await two == "done 2"
    assert store.batches == [[1, 2]]
    assert await commits.submit(3) == "done 3"


async def test_items_of_cancelled_callers_are_not_committed():
    store = ControlledCommit()
    commits = commits_to(store)
    store.hold()
    first = asyncio.create_task(commits.submit(0))
    await store.started.wait()
    for task in await submit_all(commits, (1, 2)):
        task.cancel()
    store.release()
    await first
    await commits.close()
    assert store.batches == [[0]]


async def test_item_beyond_the_pending_limit_is_rejected_until_room():
    store = ControlledCommit()
    commits = commits_to(store, max_pending=3)
    store.hold()
    tasks = await submit_all(commits, (1, 2, 3))
    with pytest.raises(Overloaded) as caught:
        await commits.submit(4)
    assert isinstance(caught.value, Unavailable)
    assert str(caught.value) == "too many writes are waiting for postgresql; try again"
    store.release()
    await asyncio.gather(*tasks)
    assert await commits.submit(5) == "done 5"


async def test_excess_weight_is_rejected_except_for_a_lone_item():
    store = ControlledCommit()
    commits = commits_to(store, weigh=lambda item: item, max_pending_weight=10)
    assert await commits.submit(25) == "done 25"
    store.hold()
    tasks = await submit_all(commits, (4, 6))
    with pytest.raises(Overloaded):
        await commits.submit(1)
    store.release()
    await asyncio.gather(*tasks)
    assert await commits.submit(10) == "done 10"


async def test_withdrawn_item_frees_capacity():
    store = ControlledCommit()
    commits = commits_to(store, max_pending=2)
    store.hold()
    first = asyncio.create_task(commits.submit(0))
    await store.started.wait()
    (second,) = await submit_all(commits, (1,))
    second.cancel()
    store.release()
    await first
    assert await asyncio.gather(commits.submit(2), commits.submit(3)) == ["done 2", "done 3"]


async def test_close_commits_waiting_items_and_rejects_new_ones():
    store = ControlledCommit()
    commits = commits_to(store, max_batch=1)
    store.hold()
    tasks = await submit_all(commits, (1, 2))
    closing = asyncio.create_task(commits.close())
    await store.started.wait()
    with pytest.raises(ShuttingDown):
        await commits.submit(3)
    store.release()
    await closing
    assert [task.result() for task in tasks] == ["done 1", "done 2"]


async def test_close_without_items_returns():
    commits = commits_to(ControlledCommit())
    await commits.close()
    with pytest.raises(ShuttingDown):
        await commits.submit(1)


async def test_close_that_times_out_fails_the_waiting_callers():
    store = ControlledCommit()
    commits = commits_to(store, max_batch=1)
    store.hold()
    tasks = await submit_all(commits, (1, 2))
    await store.started.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await commits.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ShuttingDown, ShuttingDown]


@given(
    turns=st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=8),
    max_batch=st.integers(1, 5),
)
def test_every_item_is_committed_once_and_in_order(turns: list[list[int]], max_batch: int):
    async def scenario() -> None:
        store = ControlledCommit()
        commits = commits_to(store, max_batch=max_batch)
        tasks = []
        for turn in turns:
            tasks += await submit_all(commits, turn)
        items = [item for turn in turns for item in turn]
        assert await asyncio.gather(*tasks) == [f"done {item}" for item in items]
        assert [item for batch in store.batches for item in batch] == items
        assert all(1 <= len(batch) <= max_batch for batch in store.batches)

    asyncio.run(scenario())


async def test_items_that_keep_arriving_share_a_commit(monkeypatch: pytest.MonkeyPatch):
    # Long enough that a new item arrives even on a busy machine.
    monkeypatch.setattr(group_commit, "_POLL_S", 0.2)
    store = ControlledCommit()
    commits = commits_to(store, gather=60.0, max_batch=40)
    tasks = await submit_all(commits, range(10))
    await store.started.wait()

    async def submit_more() -> None:
        # One item at a time, until a batch is full.
        for n in range(10, 50):
            tasks.extend(await submit_all(commits, [n]))

    await asyncio.gather(submit_more(), *tasks)
    await asyncio.gather(*tasks)
    assert store.batches == [list(range(10)), list(range(10, 50))]


async def test_single_item_does_not_wait_for_others():
    store = ControlledCommit()
    commits = commits_to(store, gather=60.0)
    for n in range(20):
        assert await commits.submit(n) == f"done {n}"
    assert store.batches == [[n] for n in range(20)]


async def test_caller_that_times_out_withdraws_its_item():
    store = ControlledCommit()
    commits = commits_to(store)
    store.hold()
    first = asyncio.create_task(commits.submit(1))
    await store.started.wait()
    with pytest.raises(TimeoutError):
        await commits.submit(2, timeout=0.001)
    (last,) = await submit_all(commits, [3])
    store.release()
    assert await asyncio.gather(first, last) == ["done 1", "done 3"]
    assert store.batches == [[1], [3]]

"""The tail: its visible and settled views contain every event once, for any order of commits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text

from headrace_core.domain.errors import Unavailable
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import EventType
from headrace_core.runtime.settings import Settings
from headrace_core.store.event_log import place_of
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.end import end_attempts
from headrace_core.store.sql.database import Database
from support.jobs import submit, submit_many
from support.proxy import Proxy
from support.until import until
from support.watching import ManualTail, OpenWriter, event_ids, foreign_transaction, open_writer
from support.workers import attempt_end, register, start, write_ends

NewTail = Callable[..., Awaitable[ManualTail]]


@pytest.fixture
async def large_pool(settings: Settings) -> AsyncIterator[Database]:
    """The database, with enough connections for many writers."""
    database = Database(
        settings.model_copy(update={"database_pool_size": 40}), application="test-large-pool"
    )
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
def new_tail(settings: Settings, large_pool: Database) -> NewTail:
    """Return a factory of tails that start at the end of the log."""

    async def make(**bounds: int) -> ManualTail:
        tail = ManualTail(settings, large_pool, **bounds)
        await tail.start()
        return tail

    return make


async def test_tail_routes_no_earlier_events(database: Database, new_tail: NewTail):
    await submit(database)
    tail = await new_tail()
    await tail.run()
    assert (tail.visible, tail.settled) == ([], [])
    assert tail.tail.settled != (0, 0)


async def test_late_commit_of_an_early_transaction_is_routed(
    large_pool: Database, new_tail: NewTail
):
    tail = await new_tail()
    early, late = await open_writer(large_pool), await open_writer(large_pool)
    (first,), (second,) = await early.submit(), await late.submit()
    await late.commit()
    await tail.run()
    assert event_ids(tail.visible) == [(second, 1)]
    assert tail.settled == []

    await early.commit()
    await tail.run()
    assert event_ids(tail.visible) == [(second, 1), (first, 1)]
    assert event_ids(tail.settled) == [(first, 1), (second, 1)]
    await tail.run()
    assert len(tail.visible) == len(tail.settled) == 2


async def test_transaction_open_at_the_start_is_routed(large_pool: Database, new_tail: NewTail):
    early = await open_writer(large_pool)
    (first,) = await early.submit()
    before = await submit(large_pool)
    tail = await new_tail()
    await tail.run()
    assert tail.visible == []
    await early.commit()
    await tail.run()
    assert event_ids(tail.visible) == [(first, 1)]
    # The events were visible before the tail started, and settle later.
    assert event_ids(tail.settled) == [(first, 1), (before.id, 1)]


async def test_rolled_back_transaction_delays_nothing(large_pool: Database, new_tail: NewTail):
    tail = await new_tail()
    writer = await open_writer(large_pool)
    await writer.submit()
    job = await submit(large_pool)
    await writer.roll_back()
    await tail.run()
    assert event_ids(tail.visible) == event_ids(tail.settled) == [(job.id, 1)]


async def test_foreign_transaction_delays_only_the_settled_view(
    large_pool: Database, new_tail: NewTail
):
    tail = await new_tail()
    async with foreign_transaction(large_pool):
        jobs = await submit_many(large_pool, 5)
        await tail.run()
        assert len(tail.visible) == 5
        assert tail.settled == []
        # Each run measures the oldest event's lag again.
        await tail.run()
        assert tail.gauges.settled_lag > 0
    await tail.run()
    assert [event.job_id for event in tail.settled] == [job.id for job in jobs]
    assert tail.gauges.settled_lag == 0


async def test_foreign_transaction_does_not_slow_down_runs(large_pool: Database, new_tail: NewTail):
    """A run reads only new events, not all events that the open transaction delays."""
    tail = await new_tail(page=1000)
    async with foreign_transaction(large_pool):
        for _ in range(5):
            await submit_many(large_pool, 100)
            await tail.run()
        assert tail.gauges.events == len(tail.visible) == 500
    await tail.run()
    assert tail.gauges.events == 500
    assert tail.settled == sorted(tail.visible, key=place_of)


async def test_overflowed_window_is_reread_from_the_store(large_pool: Database, new_tail: NewTail):
    tail = await new_tail(page=7, window=20)
    async with foreign_transaction(large_pool):
        early = await open_writer(large_pool)
        (late,) = await early.submit()
        for _ in range(5):
            await submit_many(large_pool, 10)
            await tail.run()
        await early.commit()
        await submit_many(large_pool, 10)
        await tail.run()
        assert len(tail.visible) == 61
        assert tail.settled == []
    assert await submit_many(large_pool, 3)
    await tail.run()
    assert tail.settled[0].job_id == late
    assert tail.settled == sorted(tail.visible, key=place_of)
    assert len(tail.visible) == 64
    # Later events are in memory again.
    await submit_many(large_pool, 3)
    await tail.run()
    assert tail.settled == sorted(tail.visible, key=place_of)


async def test_run_of_several_pages_reads_one_snapshot(large_pool: Database, new_tail: NewTail):
    tail = await new_tail(page=3)
    writers = [await open_writer(large_pool) for _ in range(4)]
    for writer in writers:
        await writer.submit(5)
    for writer in reversed(writers):
        await writer.commit()
    await tail.run()
    assert len(tail.visible) == 20
    assert tail.visible == tail.settled == sorted(tail.visible, key=place_of)


async def test_events_of_a_job_keep_their_order(database: Database, new_tail: NewTail):
    tail = await new_tail(page=2)
    worker_id = await register(database)
    jobs = await submit_many(database, 4)
    await start(database, worker_id, *jobs)
    await write_ends(
        database, worker_id, *(attempt_end(job.id, 1, EventType.SUCCEEDED) for job in jobs)
    )
    await tail.run()
    for job in jobs:
        assert [e.seq for e in tail.visible if e.job_id == job.id] == [1, 2, 3]
        assert [e.seq for e in tail.settled if e.job_id == job.id] == [1, 2, 3]


async def test_postgresql_outage_loses_no_event(settings: Settings, database: Database):
    proxy = Proxy(settings.database_url.get_secret_value())
    await proxy.start()
    through = Settings.model_validate({**settings.model_dump(), "database_url": proxy.url})
    cut_off = Database(through, application="test-tail")
    try:
        tail = ManualTail(through, cut_off)
        await tail.start()
        first = await submit(database)
        await tail.run()
        await proxy.cut()
        second = await submit(database)
        with pytest.raises(Unavailable):
            await tail.run()
        await proxy.start()

        async def is_reachable() -> bool:
            try:
                await tail.run()
            except Unavailable:
                return False
            return True

        await until(is_reachable)
        assert event_ids(tail.visible) == event_ids(tail.settled) == [(first.id, 1), (second.id, 1)]
    finally:
        await cut_off.close()
        await proxy.cut()


# Each step names a writer and an action. If the writer has no transaction, it opens one and writes;
# otherwise it performs the action. If the flag is True, the tail runs afterwards.
schedules = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["commit", "commit", "write", "roll back"]),
        st.booleans(),
    ),
    min_size=10,
    max_size=50,
)


@given(schedule=schedules, page=st.integers(1, 5), window=st.integers(1, 10))
@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_both_views_contain_every_event_once_in_order(
    large_pool: Database,
    settings: Settings,
    schedule: list[tuple[int, str, bool]],
    page: int,
    window: int,
):
    tail = ManualTail(settings, large_pool, page=page, window=window)
    await tail.start()
    committed_before = await _committed_places(large_pool)
    writers: dict[int, OpenWriter] = {}

    async def run_and_check_views() -> None:
        await tail.run()
        committed = sorted(await _committed_places(large_pool) - committed_before)
        assert sorted(map(place_of, tail.visible)) == committed
        settled = [place_of(event) for event in tail.settled]
        assert settled == committed[: len(settled)]
        horizon = min((writer.xid for writer in writers.values()), default=None)
        assert not settled or horizon is None or settled[-1][0] < horizon

    async with AsyncExitStack() as stack:
        for number, action, then_run in schedule:
            writer = writers.get(number)
            if writer is None:
                writer = writers[number] = await open_writer(large_pool)
                stack.push_async_callback(writer.commit)
                await writer.submit(1 + number % 2)
            elif action == "write":
                await writer.submit(2)
            elif action == "commit":
                await writers.pop(number).commit()
            else:
                await writers.pop(number).roll_back()
            if then_run:
                await run_and_check_views()
    writers.clear()

    async def everything_has_settled() -> bool:
        await run_and_check_views()
        return len(tail.settled) == len(tail.visible)

    await until(everything_has_settled)


async def _committed_places(database: Database) -> set[tuple[int, int]]:
    async with database.transaction() as connection:
        rows = await connection.execute(
            text("SELECT xid::text::bigint AS xid, position FROM job_events")
        )
        return {(row.xid, row.position) for row in rows}


@pytest.mark.parametrize("run_between", [True, False])
async def test_job_events_keep_their_order_across_transactions(
    database: Database, new_tail: NewTail, run_between: bool
):
    """The transaction with the lower id writes its event of the job last."""
    worker_id = await register(database)
    job, other = await submit_many(database, 2)
    await start(database, worker_id, job, other)
    tail = await new_tail()
    batch = await open_writer(database)
    async with database.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job.id)
    if run_between:
        await tail.run()
        assert [event.seq for event in tail.visible] == [3]
    ends = [attempt_end(each.id, 1, EventType.SUCCEEDED) for each in (job, other)]
    assert await end_attempts(batch.connection, worker_id=worker_id, ends=ends)
    await batch.commit()
    await tail.run()
    for view in (tail.visible, tail.settled):
        assert [event.seq for event in view if event.job_id == job.id] == [3, 4]
        assert [event.seq for event in view if event.job_id == other.id] == [3]
        assert len(view) == 3
    cancelled, succeeded = (e for e in tail.settled if e.job_id == job.id)
    assert succeeded.xid == cancelled.xid > batch.xid
    await tail.run()
    assert len(tail.visible) == len(tail.settled) == 3

"""The loops that look for what is due, lost or late, and how they are kept running."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from headrace_core.domain.errors import Unavailable
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, Waker
from headrace_scheduler import loop
from headrace_scheduler.loop import keep_running
from headrace_scheduler.loops.promote import Promote
from headrace_scheduler.loops.recover import Recover
from headrace_scheduler.metrics import Gauges
from support.jobs import set_column, submit, submit_many
from support.leading import lead
from support.listening import LONG, SHORT, listening
from support.until import until
from support.workers import lapse, register, start

LATER = datetime.now(UTC) + timedelta(hours=1)


async def promote_loop(database: Database, waker: Waker) -> Promote:
    return Promote(database=database, waker=waker, term=await lead(database))


async def sweep_loop(database: Database, waker: Waker, *, max_losses: int = 3) -> Recover:
    return Recover(
        database=database,
        waker=waker,
        term=await lead(database),
        gauges=Gauges(),
        max_losses=max_losses,
    )


async def states(database: Database) -> dict[str, int]:
    async with database.transaction() as connection:
        rows = await connection.execute(text("SELECT state, count(*) FROM jobs GROUP BY state"))
        return {row.state: row.count for row in rows}


async def rings(
    settings: Settings, database: Database, look: Callable[[], Awaitable[object]], *, expected: bool
) -> bool:
    """Whether a look wakes those who wait for jobs and those who wait for events."""
    async with (
        listening(settings, database, Topic.JOBS) as jobs,
        listening(settings, database, Topic.EVENTS) as events,
    ):
        await look()
        wait = LONG if expected else SHORT
        heard = [await jobs.wait(wait), await events.wait(wait)]
    return heard == [{Topic.JOBS}, {Topic.EVENTS}]


# Promote.


async def test_everything_that_is_due_is_queued_in_one_look(
    database: Database, waker: Waker
) -> None:
    await submit_many(database, 2100, schedule_time=LATER)
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE jobs SET due_time = now()"))
    future = await submit(database, schedule_time=LATER)
    wait = await (await promote_loop(database, waker)).run_once()
    assert await states(database) == {"queued": 2100, "scheduled": 1}
    assert wait == 1.0
    assert future.state is JobState.SCHEDULED


async def test_it_looks_again_when_the_next_job_is_due(database: Database, waker: Waker) -> None:
    promote = await promote_loop(database, waker)
    assert await promote.run_once() == 1.0
    job = await submit(database, schedule_time=LATER)
    assert await promote.run_once() == 1.0
    await set_column(database, job.id, "due_time = now() + interval '800 ms'")
    assert 0 < await promote.run_once() <= 0.8


async def test_a_job_that_somebody_holds_is_not_asked_for_without_a_pause(
    database: Database, waker: Waker
) -> None:
    job = await submit(database, schedule_time=LATER)
    await set_column(database, job.id, "due_time = now() - interval '1 h'")
    async with database.transaction() as connection:
        await connection.execute(text("SELECT FROM jobs FOR UPDATE"))
        assert await (await promote_loop(database, waker)).run_once() >= 0.01
    assert await states(database) == {"scheduled": 1}


async def test_what_was_queued_wakes_others_and_nothing_does_not(
    settings: Settings, database: Database, waker: Waker
) -> None:
    promote = await promote_loop(database, waker)
    assert not await rings(settings, database, promote.run_once, expected=False)
    job = await submit(database, schedule_time=LATER)
    await set_column(database, job.id, "due_time = now()")
    assert await rings(settings, database, promote.run_once, expected=True)


# Recover.


async def test_everything_that_is_lost_or_late_is_found_in_one_look(
    database: Database, waker: Waker
) -> None:
    lost, live = await register(database), await register(database)
    jobs = await submit_many(database, 1300)
    await start(database, lost, *jobs[:1100])
    await start(database, live, *jobs[1100:1150])
    await lapse(database, lost)
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE jobs SET deadline = now() - interval '1 s' WHERE state = 'queued'")
        )
    assert await (await sweep_loop(database, waker)).run_once() == 2.0
    assert await states(database) == {"queued": 1100, "running": 50, "failed": 150}


async def test_a_job_that_has_lost_too_many_workers_fails(database: Database, waker: Waker) -> None:
    sweep = await sweep_loop(database, waker, max_losses=0)
    lost = await register(database)
    await start(database, lost, await submit(database))
    await lapse(database, lost)
    await sweep.run_once()
    assert await states(database) == {"failed": 1}


async def test_workers_that_lapsed_long_ago_are_forgotten(database: Database, waker: Waker) -> None:
    for age in ("5 minutes", "2 hours"):
        worker_id = await register(database)
        async with database.transaction() as connection:
            await connection.execute(
                text(
                    f"UPDATE workers SET heartbeat_time = now() - interval '{age}', "
                    f"lease_expire_time = now() - interval '{age}' WHERE id = :id"
                ),
                {"id": worker_id},
            )
    await (await sweep_loop(database, waker)).run_once()
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM workers")) == 1


async def test_what_was_found_wakes_others_and_nothing_does_not(
    settings: Settings, database: Database, waker: Waker
) -> None:
    sweep = await sweep_loop(database, waker)
    assert not await rings(settings, database, sweep.run_once, expected=False)
    lost = await register(database)
    await start(database, lost, await submit(database))
    await lapse(database, lost)
    assert await rings(settings, database, sweep.run_once, expected=True)


# Keeping them running.


class Counting:
    """A loop that counts its looks, and raises what it is told to."""

    name = "counting"
    breath = 0.001

    def __init__(self, *faults: Exception, wait: float = 3600.0) -> None:
        self.looks = 0
        self._faults = list(faults)
        self._wait = wait

    async def run_once(self) -> float:
        self.looks += 1
        if self._faults:
            raise self._faults.pop(0)
        return self._wait


async def kept_running(counting: Counting, woken: asyncio.Event, looks: int) -> None:
    running = asyncio.create_task(keep_running(counting, woken))
    try:
        await until(lambda: counting.looks >= looks)
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_loop_looks_again_when_its_wait_is_over() -> None:
    await kept_running(Counting(wait=0.001), asyncio.Event(), 5)


async def test_a_wake_up_ends_a_wait() -> None:
    counting, woken = Counting(), asyncio.Event()
    running = asyncio.create_task(keep_running(counting, woken))
    for looks in (1, 2, 3):
        await until(lambda looks=looks: counting.looks == looks)
        woken.set()
    running.cancel()


async def test_a_loop_goes_on_after_a_fault_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.random, "uniform", lambda *_: 0.0)
    faults = (Unavailable("postgresql"), ValueError("a row that cannot be"), Unavailable("redis"))
    await kept_running(Counting(*faults), asyncio.Event(), 4)

"""The promote and recover loops, which process due, lost and overdue jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from headrace_scheduler.loops.promote import Promote
from headrace_scheduler.loops.recover import Recover
from headrace_scheduler.metrics import Gauges
from support.jobs import set_column, submit, submit_many
from support.leading import lead
from support.listening import QUIET_PERIOD_S, WAKE_UP_TIMEOUT_S, listening
from support.workers import lapse, register, start

LATER = datetime.now(UTC) + timedelta(hours=1)


async def promote_loop(database: Database, bus: WakeBus) -> Promote:
    return Promote(database=database, bus=bus, term=await lead(database))


async def recover_loop(database: Database, bus: WakeBus, *, max_losses: int = 3) -> Recover:
    return Recover(
        database=database,
        bus=bus,
        term=await lead(database),
        gauges=Gauges(),
        max_losses=max_losses,
    )


async def count_by_state(database: Database) -> dict[str, int]:
    async with database.transaction() as connection:
        rows = await connection.execute(text("SELECT state, count(*) FROM jobs GROUP BY state"))
        return {row.state: row.count for row in rows}


async def announces_jobs_and_events(
    settings: Settings, database: Database, run: Callable[[], Awaitable[object]], *, expected: bool
) -> bool:
    """Return whether a run announces both jobs and events."""
    async with (
        listening(settings, database, Topic.JOBS) as jobs,
        listening(settings, database, Topic.EVENTS) as events,
    ):
        await run()
        wait = WAKE_UP_TIMEOUT_S if expected else QUIET_PERIOD_S
        received = [await jobs.wait(wait), await events.wait(wait)]
    return received == [{Topic.JOBS}, {Topic.EVENTS}]


# Promote.


async def test_promote_queues_all_due_jobs_in_one_run(database: Database, bus: WakeBus) -> None:
    await submit_many(database, 2100, schedule_time=LATER)
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE jobs SET due_time = now()"))
    future = await submit(database, schedule_time=LATER)
    wait = await (await promote_loop(database, bus)).run_once()
    assert await count_by_state(database) == {"queued": 2100, "scheduled": 1}
    assert wait == 1.0
    assert future.state is JobState.SCHEDULED


async def test_promote_waits_until_the_next_job_is_due(database: Database, bus: WakeBus) -> None:
    promote = await promote_loop(database, bus)
    assert await promote.run_once() == 1.0
    job = await submit(database, schedule_time=LATER)
    assert await promote.run_once() == 1.0
    await set_column(database, job.id, "due_time = now() + interval '800 ms'")
    assert 0 < await promote.run_once() <= 0.8


async def test_promote_pauses_while_a_due_job_is_locked(database: Database, bus: WakeBus) -> None:
    job = await submit(database, schedule_time=LATER)
    await set_column(database, job.id, "due_time = now() - interval '1 h'")
    async with database.transaction() as connection:
        await connection.execute(text("SELECT FROM jobs FOR UPDATE"))
        assert await (await promote_loop(database, bus)).run_once() >= 0.01
    assert await count_by_state(database) == {"scheduled": 1}


async def test_promote_announces_only_promoted_jobs(
    settings: Settings, database: Database, bus: WakeBus
) -> None:
    promote = await promote_loop(database, bus)
    assert not await announces_jobs_and_events(settings, database, promote.run_once, expected=False)
    job = await submit(database, schedule_time=LATER)
    await set_column(database, job.id, "due_time = now()")
    assert await announces_jobs_and_events(settings, database, promote.run_once, expected=True)


# Recover.


async def test_recover_handles_all_lost_and_overdue_jobs_in_one_run(
    database: Database, bus: WakeBus
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
    assert await (await recover_loop(database, bus)).run_once() == 2.0
    assert await count_by_state(database) == {"queued": 1100, "running": 50, "failed": 150}


async def test_recover_fails_a_job_that_lost_too_many_workers(
    database: Database, bus: WakeBus
) -> None:
    recover = await recover_loop(database, bus, max_losses=0)
    lost = await register(database)
    await start(database, lost, await submit(database))
    await lapse(database, lost)
    await recover.run_once()
    assert await count_by_state(database) == {"failed": 1}


async def test_recover_removes_workers_that_lapsed_long_ago(
    database: Database, bus: WakeBus
) -> None:
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
    await (await recover_loop(database, bus)).run_once()
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM workers")) == 1


async def test_recover_announces_only_recovered_jobs(
    settings: Settings, database: Database, bus: WakeBus
) -> None:
    recover = await recover_loop(database, bus)
    assert not await announces_jobs_and_events(settings, database, recover.run_once, expected=False)
    lost = await register(database)
    await start(database, lost, await submit(database))
    await lapse(database, lost)
    assert await announces_jobs_and_events(settings, database, recover.run_once, expected=True)

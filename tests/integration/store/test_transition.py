"""Statements of the transition builder, executed on a database."""

from __future__ import annotations

from sqlalchemy import text

from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.store.jobs.complete import COMPLETE_BODY
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.transition import Lock, Selection, Transition
from support.histories import assert_legal
from support.jobs import history, read_job, submit

FUNCTION_BODY = text("""
    SELECT prosrc FROM pg_proc
    WHERE proname = 'complete' AND pronamespace = 'headrace'::regnamespace
""")

RELEASE_DEPENDENTS = Transition(
    name="released",
    events=(EventType.DUE,),
    rows=Selection(
        "dependents",
        """
            SELECT j.id FROM jobs j JOIN stopped s ON j.labels ->> 'after' = s.id::text
            WHERE $guard ORDER BY j.id $lock
        """,
        Lock.SKIP,
    ),
    changes={"queue_time": "clock_timestamp()"},
    result="SELECT id FROM released",
)

STOP_AND_RELEASE = Transition(
    name="stopped",
    events=(EventType.CANCELLED,),
    rows="j.id = :id AND $guard",
    changes={"end_time": "clock_timestamp()"},
    then=RELEASE_DEPENDENTS.ctes,
    result="SELECT id FROM released",
)


async def test_complete_function_has_the_generated_body(database: Database) -> None:
    async with database.transaction() as connection:
        body = await connection.scalar(FUNCTION_BODY)

    assert body.split() == COMPLETE_BODY.replace("{tables}", "headrace").split()


async def test_transition_can_trigger_transitions_of_other_jobs(database: Database) -> None:
    first = await submit(database)
    later = first.create_time.replace(year=first.create_time.year + 1)
    waiting, other = [
        await submit(database, schedule_time=later, labels={"after": after})
        for after in (str(first.id), "another")
    ]

    async with database.transaction() as connection:
        released = await connection.execute(STOP_AND_RELEASE.statement, {"id": first.id})

    assert [row.id for row in released] == [waiting.id]
    jobs = [await read_job(database, job.id) for job in (first, waiting, other)]
    assert [job.state for job in jobs] == [
        JobState.CANCELLED,
        JobState.QUEUED,
        JobState.SCHEDULED,
    ]
    assert (await history(database, waiting.id))[-1].type is EventType.DUE
    for job in jobs:
        assert_legal(job, await history(database, job.id))

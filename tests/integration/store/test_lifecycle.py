"""The store's functions perform every transition of the lifecycle, and reject all others.

Each event has functions that write it. The test calls each function for a job in each state: the
function performs one row of the lifecycle table, or it changes nothing and reports this.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from asyncpg import IntegrityConstraintViolationError
from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.errors import StateConflict
from headrace_core.domain.job import DEFAULT_TENANT, Job, JobEvent, Progress
from headrace_core.domain.lifecycle import EventType, JobState, allows, sources
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.promote import promote_due
from headrace_core.store.jobs.recover import expire_overdue, recover_lost
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.jobs.submit import RequestIdConflict, submit_jobs
from headrace_core.store.sql.database import Database
from support.histories import ROWS, Row, assert_legal, rows_report
from support.jobs import history, new_job, read_job, set_column, submit
from support.leading import lead
from support.states import PreparedJob, prepare_job
from support.workers import attempt_end, claim, delivery, lapse, report, write_ends

# A performer calls one function for a job, and returns whether the function reports a change.
Performer = Callable[[Database, PreparedJob], Awaitable[bool]]


async def submit_again(database: Database, prepared: PreparedJob) -> bool:
    repeated = new_job(request_id=prepared.job.request_id)
    async with database.transaction() as connection:
        [result] = await submit_jobs(connection, [repeated])
    assert not isinstance(result, RequestIdConflict) or result.existing_id == str(prepared.job.id)
    return not isinstance(result, RequestIdConflict) and result.id == repeated.id


async def promote(database: Database, prepared: PreparedJob) -> bool:
    await set_column(database, prepared.job.id, "due_time = now() - interval '1 s'")
    async with database.transaction() as connection:
        return await promote_due(connection, term=await lead(database), limit=10) == 1


async def claim_job(database: Database, prepared: PreparedJob) -> bool:
    return bool(await claim(database, prepared.worker_id, [delivery(prepared.job)]))


def reporting(**content: Any) -> Performer:
    async def perform(database: Database, prepared: PreparedJob) -> bool:
        sent = AttemptReport(key=AttemptKey(prepared.job.id, prepared.job.attempt), **content)
        return bool(await report(database, prepared.worker_id, sent))

    return perform


def ending_with(event: EventType) -> Performer:
    async def perform(database: Database, prepared: PreparedJob) -> bool:
        end = attempt_end(prepared.job.id, prepared.job.attempt, event)
        written = await write_ends(database, prepared.worker_id, end)
        assert written in ({}, {prepared.job.id: event})
        return bool(written)

    return perform


def recovering(*, max_losses: int) -> Performer:
    async def perform(database: Database, prepared: PreparedJob) -> bool:
        await lapse(database, prepared.worker_id)
        async with database.transaction() as connection:
            lost = await recover_lost(
                connection, term=await lead(database), limit=10, max_losses=max_losses
            )
        return bool(lost)

    return perform


async def expire(database: Database, prepared: PreparedJob) -> bool:
    await set_column(database, prepared.job.id, "deadline = now() - interval '1 s'")
    async with database.transaction() as connection:
        expired = await expire_overdue(
            connection, term=await lead(database), limit=10, running_grace=timedelta()
        )
    assert expired in ([], [prepared.job.id])
    return bool(expired)


def requesting(function: Callable[..., Awaitable[Job]]) -> Performer:
    async def perform(database: Database, prepared: PreparedJob) -> bool:
        try:
            async with database.transaction() as connection:
                returned = await function(connection, tenant=DEFAULT_TENANT, job_id=prepared.job.id)
        except StateConflict as conflict:
            return assert_conflict(conflict, prepared)
        # The function returns the current job.
        now = await read_job(database, prepared.job.id)
        assert returned == type(now)(**{**field_values(now), "payload": None, "result": None})
        return returned.seq > prepared.job.seq

    return perform


def assert_conflict(conflict: StateConflict, prepared: PreparedJob) -> Literal[False]:
    assert conflict.state is prepared.job.state
    assert conflict.state not in conflict.allowed
    return False


PERFORMERS: dict[EventType, tuple[Performer, ...]] = {
    EventType.SUBMITTED: (submit_again,),
    EventType.DUE: (promote,),
    EventType.STARTED: (claim_job,),
    EventType.PROGRESSED: (reporting(progress=Progress(fraction=0.5, message="half")),),
    EventType.OUTPUT: (reporting(output='"a piece"'),),
    EventType.SUCCEEDED: (ending_with(EventType.SUCCEEDED),),
    EventType.RETRY_SCHEDULED: (ending_with(EventType.RETRY_SCHEDULED),),
    EventType.FAILED: (ending_with(EventType.FAILED),),
    EventType.INTERRUPTED: (ending_with(EventType.INTERRUPTED),),
    EventType.WORKER_LOST: (
        recovering(max_losses=3),
        recovering(max_losses=0),
        ending_with(EventType.WORKER_LOST),
    ),
    EventType.CANCEL_REQUESTED: (requesting(cancel_job),),
    EventType.CANCELLED: (requesting(cancel_job), ending_with(EventType.CANCELLED)),
    EventType.EXPIRED: (expire, ending_with(EventType.EXPIRED)),
    EventType.REQUEUED: (requesting(requeue_job),),
}


async def attempt_row(database: Database, state: JobState, perform: Performer) -> Row | None:
    """Call one performer for a new job; return the resulting row of the lifecycle table, if any."""
    prepared = await prepare_job(database, state)
    before = await history(database, prepared.job.id)
    changed = await perform(database, prepared)
    job = await read_job(database, prepared.job.id)
    events = await history(database, prepared.job.id)
    assert events[: len(before)] == before
    if not changed:
        # The function changed nothing. Only the time or deadline that the test set may differ.
        assert events == before
        as_before = {"due_time": job.due_time, "deadline": job.deadline}
        assert job == type(job)(**{**field_values(prepared.job), **as_before})
        return None
    [written] = events[len(before) :]
    assert job.seq == prepared.job.seq + 1 == written.seq
    assert allows(state, written.type, job.state)
    assert_event(written, job)
    assert_legal(job, events)
    return state, written.type, job.state


def field_values(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in type(job).__dataclass_fields__}


def assert_event(event: JobEvent, job: Job) -> None:
    """Assert that an event has the fields of its job."""
    kind = event.type
    assert (event.job_id, event.tenant, event.state) == (job.id, job.tenant, job.state)
    assert (event.attempt, event.time) == (job.attempt, job.update_time)
    failures = {
        EventType.RETRY_SCHEDULED,
        EventType.FAILED,
        EventType.EXPIRED,
        EventType.WORKER_LOST,
    }
    assert event.error == (job.error if kind in failures else None)
    assert (event.error is not None) == (kind in failures)
    has_due_time = kind is EventType.RETRY_SCHEDULED or job.state is JobState.SCHEDULED
    assert event.due_time == (job.due_time if has_due_time else None)
    assert event.worker_id == (job.worker_id if kind is EventType.STARTED else None)
    assert event.progress == (job.progress if kind is EventType.PROGRESSED else None)
    assert event.output == ('"a piece"' if kind is EventType.OUTPUT else None)


async def test_store_performs_exactly_the_lifecycle_transitions(
    database: Database, subtests: pytest.Subtests
) -> None:
    covered_rows: set[Row] = set()
    for event, performers in PERFORMERS.items():
        for state in JobState:
            with subtests.test(event=event, state=state):
                rows = [await attempt_row(database, state, perform) for perform in performers]
                covered_rows.update(row for row in rows if row is not None)
                # A function for two events, such as cancel_job, writes the event that applies.
                assert any(row and row[1] is event for row in rows) == (state in sources(event))
    for later, target in ((None, JobState.QUEUED), (timedelta(hours=1), JobState.SCHEDULED)):
        time = None if later is None else datetime.now(UTC) + later
        job = await submit(database, schedule_time=time)
        [submitted] = await history(database, job.id)
        assert (submitted.seq, submitted.type, submitted.state) == (1, EventType.SUBMITTED, target)
        assert submitted.due_time == (time and job.due_time)
        assert_legal(await read_job(database, job.id), [submitted])
        covered_rows.add((None, submitted.type, submitted.state))
    for end in (requesting(cancel_job), expire):
        covered_rows.add(await requeue_before_due_time(database, end))
    sys.stdout.write(rows_report(covered_rows))
    assert covered_rows == ROWS


async def requeue_before_due_time(database: Database, end: Performer) -> Row:
    """End a SCHEDULED job and requeue it; return the lifecycle row of the requeue."""
    prepared = await prepare_job(database, JobState.SCHEDULED)
    assert await end(database, prepared)
    ended = await read_job(database, prepared.job.id)
    async with database.transaction() as connection:
        job = await requeue_job(connection, tenant=DEFAULT_TENANT, job_id=ended.id)
    assert (job.due_time, job.queue_time, job.deadline) == (prepared.job.due_time, None, None)
    [*before, requeued] = await history(database, job.id)
    assert_event(requeued, job)
    assert_legal(await read_job(database, job.id), [*before, requeued])
    return ended.state, requeued.type, job.state


async def test_performers_cover_every_event() -> None:
    assert set(PERFORMERS) == set(EventType)


async def test_database_rejects_event_with_a_wrong_state(database: Database) -> None:
    accepted, violated = set(), set()
    for event, state in itertools.product(EventType, JobState):
        values = {
            "seq": 1 if event is EventType.SUBMITTED else 2,
            "type": event,
            "state": state,
            "progress": "{}" if event is EventType.PROGRESSED else None,
            "output": "{}" if event is EventType.OUTPUT else None,
        }
        try:
            async with database.transaction() as connection:
                await connection.execute(INSERT_EVENT, values)
            accepted.add((event, state))
        except IntegrityConstraintViolationError as refusal:
            violated.add(refusal.constraint_name)
    assert violated == {"job_events_step_check"}
    assert accepted == {(event, target) for _, event, target in ROWS}


INSERT_EVENT = text("""
    INSERT INTO job_events (
        job_id, seq, xid, tenant, type, state, attempt, time, progress, output
    )
    VALUES (gen_random_uuid(), :seq, pg_current_xact_id(), 'default', :type, :state, 1, now(),
        CAST(:progress AS json), CAST(:output AS json))
""")

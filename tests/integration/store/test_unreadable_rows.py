"""Unreadable rows from older versions do not affect other rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from itertools import product
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.event_log import read_end, read_range
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.claim import claim_jobs
from headrace_core.store.jobs.promote import next_due, promote_due
from headrace_core.store.jobs.read import get_job, list_jobs, read_stats
from headrace_core.store.jobs.recover import expire_overdue, recover_lost
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.migrate import mend, migrate
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.tables import TIME_COLUMNS
from headrace_core.store.upkeep.audit import FIRST_ID
from headrace_core.store.upkeep.unreadable_rows import unreadable_rows
from headrace_core.store.workers import live_handlers
from headrace_ops.audit import Audit, Auditor
from support.databases import Databases
from support.jobs import history, read_job
from support.poison import POISONED, UNSTARTABLE, poisoned
from support.workers import register

Ids = dict[str, UUID]


@pytest.fixture
def poisoned_database(databases: Databases) -> Iterator[tuple[str, Ids]]:
    with poisoned(databases) as found:
        yield found


@pytest.fixture
def ids(poisoned_database: tuple[str, Ids]) -> Ids:
    return poisoned_database[1]


@pytest.fixture
async def database(poisoned_database: tuple[str, Ids]) -> AsyncIterator[Database]:
    """Connections to the database with unreadable rows."""
    database = Database(Settings(database_url=SecretStr(poisoned_database[0])), application="test")
    yield database
    await database.close()


async def audit(database: Database) -> Audit:
    auditor = Auditor(database, limit=1000, progress=lambda *_: None, page=3)
    return await auditor.run(patience=None)


def unreadable_subjects(audit_result: Audit) -> set[str]:
    return {breach.subject for breach in audit_result.breaches if breach.check == "unreadable"}


async def start_term(database: Database) -> int:
    async with database.statement() as connection:
        attempts = await connection.execute(
            text(
                "INSERT INTO leadership (term, holder, lease_expire_time) VALUES "
                "(1, gen_random_uuid(), now() + interval '1 hour') RETURNING term"
            )
        )
    return attempts.one().term  # type: ignore[no-any-return]


async def test_verify_finds_each_poisoned_row_after_migration(database: Database, ids: Ids) -> None:
    subjects = unreadable_subjects(await audit(database))
    assert {f"job {ids[name]}" for name in POISONED} <= subjects
    event_subjects = {
        f"event 1 of job {ids[name]}" for name in ("due.never", "due.always", "create.never")
    }
    assert subjects == {f"job {ids[name]}" for name in POISONED} | event_subjects


async def test_mend_repairs_rows_and_validates_constraints(
    poisoned_database: tuple[str, Ids], database: Database, ids: Ids
) -> None:
    before = {name: await read_job(database, JobId(ids[name])) for name in ids}
    await asyncio.to_thread(mend, Settings(database_url=SecretStr(poisoned_database[0])))
    assert unreadable_subjects(await audit(database)) == set()
    for name, job in before.items():
        after = await read_job(database, JobId(ids[name]))
        assert (after.state, after.seq, after.attempt) == (job.state, job.seq, job.attempt)
        assert after.unreadable == ()
    async with database.statement() as connection:
        invalid = "SELECT conname FROM pg_constraint WHERE contype = 'c' AND NOT convalidated"
        assert await connection.scalars(text(invalid)) == []
        triggers = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE '%clamp'"
        assert await connection.scalars(text(triggers)) == []
    # A second migration does not change the constraints.
    await asyncio.to_thread(migrate, Settings(database_url=SecretStr(poisoned_database[0])))


async def test_unreadable_events_are_found_on_every_page(database: Database, ids: Ids) -> None:
    async with database.statement() as connection:
        all_rows = await unreadable_rows(connection, after=FIRST_ID, last=None)
        assert len([row for row in all_rows if row.seq is not None]) == 3
        for page in (1, 2):
            paged = await unreadable_rows(connection, after=FIRST_ID, last=None, page=page)
            assert paged == all_rows


OUT_OF_RANGE_TIMES = ("infinity", "-infinity", "20000-01-01", "0001-01-01 BC")


async def test_migrated_database_rejects_out_of_range_times(database: Database, ids: Ids) -> None:
    async with database.session() as connection:
        # An end_time of a QUEUED job violates another constraint first.
        for column, value in product(
            sorted(set(TIME_COLUMNS["jobs"]) - {"end_time"}), OUT_OF_RANGE_TIMES
        ):
            with pytest.raises(asyncpg.CheckViolationError, match="jobs_times_check"):
                await connection.execute(
                    f"UPDATE jobs SET {column} = '{value}' WHERE id = $1", ids["sound.one"]
                )
        for table, columns in TIME_COLUMNS.items():
            for column in columns:
                check = await connection.fetchval(
                    "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1",
                    f"{table}_times_check",
                )
                assert column in check


async def test_readers_return_every_job_and_event(database: Database, ids: Ids) -> None:
    async with database.transaction() as connection:
        for full in (True, False):
            listed = await list_jobs(
                connection, tenant=DEFAULT_TENANT, query=(), limit=1000, before=None, full=full
            )
            assert {job.id for job in listed} == set(ids.values())
        marked = {job.type for job in listed if job.unreadable}
        # `Job` has no rank field, so rank.nan is not marked.
        assert marked == set(POISONED) - {"rank.nan"}
    async with database.statement() as connection:
        end = await read_end(connection)
        page = await read_range(connection, after=(0, 0), through=end.settled, limit=1000)
        assert {event.job_id for event in page.events} == set(ids.values())
        await read_stats(connection, tenant=DEFAULT_TENANT)
        await next_due(connection)
    for job_id in ids.values():
        assert [event.seq for event in await history(database, JobId(job_id))] == [1]


async def test_claim_returns_poisoned_and_valid_jobs(database: Database, ids: Ids) -> None:
    worker_id = await register(database, *ids)
    deliveries = [AttemptKey(JobId(job_id), 1) for job_id in ids.values()]
    async with database.statement() as connection:
        claimed = await claim_jobs(connection, worker_id=worker_id, deliveries=deliveries)
    by_type = {job.type: job for job in claimed}
    waiting = {"due.never", "due.always", "error.list", "deadline.early", "deadline.bc"}
    assert set(by_type) == set(ids) - waiting
    assert {name for name, job in by_type.items() if job.unreadable} == set(UNSTARTABLE)
    assert all(job.unreadable for name, job in by_type.items() if name in UNSTARTABLE)


async def test_scheduler_moves_poisoned_and_valid_jobs(database: Database, ids: Ids) -> None:
    number = await start_term(database)
    async with database.statement() as connection:
        assert await promote_due(connection, term=number, limit=100) == 1
        expired = await expire_overdue(
            connection, term=number, limit=100, running_grace=timedelta()
        )
        assert set(expired) == {ids["deadline.early"], ids["deadline.bc"]}
        await connection.execute(
            text(
                "UPDATE jobs SET state = 'running', worker_id = gen_random_uuid(), attempt = 1, "
                "start_time = now() WHERE state = 'queued'"
            )
        )
        lost = await recover_lost(connection, term=number, limit=100, max_losses=3)
        assert len(lost) == len(ids) - 4
    assert (await read_job(database, JobId(ids["due.always"]))).state is JobState.QUEUED


async def test_cancel_and_requeue_of_poisoned_jobs_succeed(database: Database, ids: Ids) -> None:
    for name in POISONED:
        job_id = JobId(ids[name])
        async with database.transaction() as connection:
            job = await get_job(connection, tenant=DEFAULT_TENANT, job_id=job_id, full=True)
        if job.state is not JobState.FAILED:
            async with database.transaction() as connection:
                job = await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)
            assert job.state is JobState.CANCELLED, name
        async with database.transaction() as connection:
            job = await requeue_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)
        assert job.state in {JobState.QUEUED, JobState.SCHEDULED}, name
        assert (await history(database, job_id))[-1].type is EventType.REQUEUED


async def test_unreadable_handler_does_not_hide_other_handlers(database: Database) -> None:
    await register(database, "good", "bad", "slow")
    async with database.statement() as connection:
        await connection.execute(
            text("""UPDATE worker_handlers SET retry = '{"jitter": 7}' WHERE type = 'bad'""")
        )
        await connection.execute(
            text("UPDATE worker_handlers SET timeout = '3000000 years' WHERE type = 'slow'")
        )
        known = await live_handlers(connection, tenant=DEFAULT_TENANT)
    assert [handler.spec.type for handler in known] == ["good"]
    subjects = unreadable_subjects(await audit(database))
    assert any(subject.startswith("handler bad of worker ") for subject in subjects)
    assert any(subject.startswith("handler slow of worker ") for subject in subjects)


@pytest.fixture
def clean_url(databases: Databases) -> Iterator[str]:
    """A database for one test, because other tests leave triggers in the shared database."""
    with databases.fresh() as url:
        yield url


async def test_clean_database_is_migrated_without_triggers(clean_url: str) -> None:
    database = Database(Settings(database_url=SecretStr(clean_url)), application="test")
    async with database.statement() as connection:
        # Only the audit log has triggers.
        triggers = (
            "SELECT DISTINCT tgrelid::regclass::text AS name FROM pg_trigger WHERE NOT tgisinternal"
        )
        tables = {row.name for row in await connection.execute(text(triggers))}
        assert {name.rpartition(".")[2] for name in tables} <= {"audit_log", "audit_chains"}
        invalid = "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND NOT convalidated"
        assert await connection.scalar(text(invalid)) == 0
    await database.close()

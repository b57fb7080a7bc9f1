"""The SQL function `check_fence`: a handler's transaction with a check delays other attempts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import asyncpg
import pytest

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import DEFAULT_TENANT, Progress
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.recover import expire_overdue, recover_lost
from headrace_core.store.jobs.report import count_reports
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.sql.database import Database
from support.histories import assert_legal
from support.jobs import history, read_job, set_column
from support.leading import lead
from support.states import PreparedJob, prepare_job
from support.workers import attempt_end, claim, lapse, register, report, write_ends

CHECK_FENCE = "SELECT headrace.check_fence($1, $2)"


async def recover(database: Database, *, limit: int = 100) -> Sequence[tuple[JobId, str]]:
    async with database.transaction() as connection:
        return await recover_lost(connection, term=await lead(database), limit=limit, max_losses=3)


async def expire(database: Database) -> Sequence[JobId]:
    async with database.transaction() as connection:
        return await expire_overdue(
            connection, term=await lead(database), limit=100, running_grace=timedelta()
        )


@pytest.fixture
async def handler_connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A handler's connection, which is closed with its transaction at the end of the test."""
    connection = await asyncpg.connect(settings.postgresql_url, timeout=60, command_timeout=60)
    yield connection
    connection.terminate()


@pytest.fixture
async def running_job(database: Database) -> PreparedJob:
    """A job in its first attempt."""
    return await prepare_job(database, JobState.RUNNING)


async def test_recovery_skips_a_checked_job_until_its_commit(
    database: Database, handler_connection: asyncpg.Connection, running_job: PreparedJob
) -> None:
    other = await prepare_job(database, JobState.RUNNING)
    for worker_id in (running_job.worker_id, other.worker_id):
        await lapse(database, worker_id)
    async with handler_connection.transaction():
        await handler_connection.execute(CHECK_FENCE, running_job.job.id, 1)
        # The page continues with the jobs after it.
        assert await recover(database, limit=1) == [(other.job.id, JobState.QUEUED)]
        assert await recover(database) == []
    assert await recover(database) == [(running_job.job.id, JobState.QUEUED)]


async def test_expiry_skips_a_checked_job_until_its_commit(
    database: Database, handler_connection: asyncpg.Connection, running_job: PreparedJob
) -> None:
    await set_column(database, running_job.job.id, "deadline = now() - interval '1 s'")
    async with handler_connection.transaction():
        await handler_connection.execute(CHECK_FENCE, running_job.job.id, 1)
        assert await expire(database) == []
    assert await expire(database) == [running_job.job.id]


@pytest.mark.parametrize("event", [EventType.INTERRUPTED, EventType.FAILED])
async def test_claim_skips_a_checked_job_until_its_commit(
    database: Database,
    handler_connection: asyncpg.Connection,
    running_job: PreparedJob,
    event: EventType,
) -> None:
    job_id = running_job.job.id
    worker_id = await register(database)
    second = [AttemptKey(job_id, 2)]
    async with handler_connection.transaction():
        await handler_connection.execute(CHECK_FENCE, job_id, 1)
        # The attempt itself may end, for example because its worker has abandoned the handler.
        assert await write_ends(database, running_job.worker_id, attempt_end(job_id, 1, event))
        if event is EventType.FAILED:
            async with database.transaction() as connection:
                await requeue_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)
        assert (await read_job(database, job_id)).state is JobState.QUEUED
        assert await claim(database, worker_id, second) == []
    assert [job.key for job in await claim(database, worker_id, second)] == second
    assert_legal(await read_job(database, job_id), await history(database, job_id))


async def test_other_transitions_do_not_wait_for_a_checked_job(
    settings: Settings, handler_connection: asyncpg.Connection, running_job: PreparedJob
) -> None:
    job_id, worker_id = running_job.job.id, running_job.worker_id
    # The timeout is short because no call may wait for the handler.
    short_timeout = Database(
        settings.model_copy(update={"database_timeout": 5.0}), application="test"
    )
    async with handler_connection.transaction():
        await handler_connection.execute(CHECK_FENCE, job_id, 1)
        reports = [
            AttemptReport(key=AttemptKey(job_id, 1), progress=Progress(fraction=0.5)),
            AttemptReport(key=AttemptKey(job_id, 1), output='"half"'),
        ]
        assert await report(short_timeout, worker_id, *reports) == {job_id}
        async with short_timeout.transaction() as connection:
            requested = await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)
        assert requested.cancel_request_time is not None
        written = await write_ends(
            short_timeout, worker_id, attempt_end(job_id, 1, EventType.SUCCEEDED)
        )
        assert written == {job_id: EventType.SUCCEEDED}
    assert_legal(await read_job(short_timeout, job_id), await history(short_timeout, job_id))
    await short_timeout.close()


@pytest.mark.parametrize("attempt", [0, 2])
async def test_check_of_another_attempt_is_refused(
    handler_connection: asyncpg.Connection, running_job: PreparedJob, attempt: int
) -> None:
    with pytest.raises(asyncpg.PostgresError, match="is not running") as excinfo:
        await handler_connection.execute(CHECK_FENCE, running_job.job.id, attempt)
    assert excinfo.value.sqlstate == "JF001"


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.RUNNING])
async def test_check_of_a_waiting_or_ended_job_is_refused(
    database: Database, handler_connection: asyncpg.Connection, state: JobState
) -> None:
    prepared = await prepare_job(database, state)
    with pytest.raises(asyncpg.PostgresError) as excinfo:
        await handler_connection.execute(CHECK_FENCE, prepared.job.id, prepared.job.attempt)
    assert excinfo.value.sqlstate == "JF001"


async def test_check_after_a_takeover_is_refused(
    database: Database, handler_connection: asyncpg.Connection, running_job: PreparedJob
) -> None:
    async with handler_connection.transaction():
        # The snapshot of this transaction is older than the takeover.
        await handler_connection.execute("SELECT 1")
        await lapse(database, running_job.worker_id)
        assert await recover(database)
        with pytest.raises(asyncpg.PostgresError) as excinfo:
            await handler_connection.execute(CHECK_FENCE, running_job.job.id, 1)
    assert excinfo.value.sqlstate == "JF001"


async def test_reports_are_counted_during_a_checked_transaction(
    database: Database, handler_connection: asyncpg.Connection, running_job: PreparedJob
) -> None:
    job = running_job.job
    async with handler_connection.transaction():
        await handler_connection.execute(CHECK_FENCE, job.id, 1)
        sent = AttemptReport(key=AttemptKey(job.id, 1), progress=Progress(fraction=0.5))
        await report(database, running_job.worker_id, sent)
        # The handler waits for the response, so the report must not wait for the handler's
        # transaction.
        async with asyncio.timeout(60), database.transaction() as connection:
            assert await count_reports(connection, AttemptKey(job.id, 1)) == 1


@pytest.mark.skipif(
    "HEADRACE_TEST_ROLES" in os.environ,
    reason="with roles, only the handler's role may call the functions; see test_grants.py",
)
async def test_handler_role_needs_only_usage_of_the_schema(
    database: Database, handler_connection: asyncpg.Connection, running_job: PreparedJob
) -> None:
    role = "headrace_test_handler"
    arguments = (running_job.job.id, 1)
    await handler_connection.execute(f"""
        DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END $$
    """)
    try:
        await handler_connection.execute(f"SET ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="schema headrace"):
            await handler_connection.execute(CHECK_FENCE, *arguments)
        await handler_connection.execute(
            f"RESET ROLE; GRANT USAGE ON SCHEMA headrace TO {role}; SET ROLE {role}"
        )
        await handler_connection.execute(CHECK_FENCE, *arguments)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await handler_connection.execute("SELECT FROM jobs")
        # The functions ignore the caller's objects with the same names as Headrace's tables.
        await handler_connection.execute(
            "CREATE TEMP TABLE jobs (id uuid, attempt integer, state text)"
        )
        await handler_connection.execute(
            "INSERT INTO jobs VALUES ($1, 7, 'running')", running_job.job.id
        )
        with pytest.raises(asyncpg.PostgresError, match="is not running"):
            await handler_connection.execute(CHECK_FENCE, running_job.job.id, 7)
        await handler_connection.execute("SELECT headrace.complete($1, $2, '[1]')", *arguments)
    finally:
        await handler_connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    assert (await read_job(database, running_job.job.id)).result == "[1]"


async def test_retry_is_written_during_a_checked_transaction(
    database: Database, handler_connection: asyncpg.Connection, running_job: PreparedJob
) -> None:
    job_id = running_job.job.id
    async with handler_connection.transaction():
        await handler_connection.execute(CHECK_FENCE, job_id, 1)
        retry = attempt_end(job_id, 1, EventType.RETRY_SCHEDULED, backoff=timedelta())
        assert await write_ends(database, running_job.worker_id, retry)
        assert (await read_job(database, job_id)).state is JobState.RETRYING
        # The attempt has ended, so the handler can no longer write.
        with pytest.raises(asyncpg.PostgresError) as excinfo:
            async with handler_connection.transaction():
                await handler_connection.execute(CHECK_FENCE, job_id, 1)
        assert excinfo.value.sqlstate == "JF001"

"""The SQL function `complete`: a handler ends its job in its own transaction, with any driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import AttemptNotCurrent
from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.complete import (
    complete_attempt,
    complete_attempt_sync,
    is_held_open,
    was_completed,
)
from headrace_core.store.jobs.recover import recover_lost
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic
from support.histories import assert_legal
from support.jobs import history, read_job
from support.leading import lead
from support.listening import QUIET_PERIOD_S, WAKE_UP_TIMEOUT_S, listening
from support.states import PreparedJob, prepare_job
from support.workers import attempt_end, lapse, write_ends

# Openers of a connection with a transaction, which is committed at the end of the block.
Opener = Callable[[str], AbstractAsyncContextManager[Any]]
SyncOpener = Callable[[str], AbstractContextManager[Any]]


@asynccontextmanager
async def by_asyncpg(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url, timeout=60)
    try:
        async with connection.transaction():
            yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def by_asyncpg_pool(url: str) -> AsyncIterator[Any]:
    async with (
        asyncpg.create_pool(url, min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        yield connection


@asynccontextmanager
async def by_sqlalchemy(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(_engine_url(url, "asyncpg"), poolclass=NullPool)
    async with engine.begin() as connection:
        yield connection


@asynccontextmanager
async def by_sqlalchemy_session(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(_engine_url(url, "psycopg"), poolclass=NullPool)
    async with AsyncSession(engine) as session, session.begin():
        yield session


@asynccontextmanager
async def by_psycopg(url: str) -> AsyncIterator[Any]:
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
        connection.transaction(),
    ):
        yield connection


@contextmanager
def by_sync_sqlalchemy(url: str) -> Any:
    with create_engine(_engine_url(url, "psycopg"), poolclass=NullPool).begin() as connection:
        yield connection


@contextmanager
def by_sync_sqlalchemy_session(url: str) -> Any:
    engine = create_engine(_engine_url(url, "psycopg"), poolclass=NullPool)
    with Session(engine) as session, session.begin():
        yield session


@contextmanager
def by_sync_psycopg(url: str) -> Any:
    with psycopg.connect(url) as connection:
        yield connection


ASYNC_OPENERS: list[Opener] = [
    by_asyncpg,
    by_asyncpg_pool,
    by_sqlalchemy,
    by_sqlalchemy_session,
    by_psycopg,
]
SYNC_OPENERS: list[SyncOpener] = [by_sync_sqlalchemy, by_sync_sqlalchemy_session, by_sync_psycopg]


def _engine_url(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://", 1)


def _opener_name(opener: Opener | SyncOpener) -> str:
    return opener.__name__


class Rollback(Exception):
    """An exception that rolls back a transaction."""


@pytest.fixture
async def running_job(database: Database) -> PreparedJob:
    """A job in its first attempt."""
    return await prepare_job(database, JobState.RUNNING)


@pytest.mark.parametrize("opener", ASYNC_OPENERS, ids=_opener_name)
async def test_handler_ends_its_job_at_its_commit(
    database: Database, settings: Settings, running_job: PreparedJob, opener: Opener
) -> None:
    job_id = running_job.job.id
    with pytest.raises(Rollback):
        async with opener(settings.postgresql_url) as connection:
            await complete_attempt(connection, AttemptKey(job_id, 1), result="[0]")
            raise Rollback
    await assert_untouched(database, running_job)
    async with opener(settings.postgresql_url) as connection:
        await complete_attempt(connection, AttemptKey(job_id, 1), result='{"a":  1}')
        assert (await read_job(database, job_id)).state is JobState.RUNNING
    await assert_completed(database, job_id, '{"a":  1}')


@pytest.mark.parametrize("opener", SYNC_OPENERS, ids=_opener_name)
async def test_sync_handler_ends_its_job_at_its_commit(
    database: Database, settings: Settings, running_job: PreparedJob, opener: SyncOpener
) -> None:
    job_id = running_job.job.id

    def handle(*, fail: bool, result: str) -> None:
        with opener(settings.postgresql_url) as connection:
            complete_attempt_sync(connection, AttemptKey(job_id, 1), result=result)
            if fail:
                raise Rollback

    with pytest.raises(Rollback):
        await asyncio.to_thread(handle, fail=True, result="[0]")
    await assert_untouched(database, running_job)
    await asyncio.to_thread(handle, fail=False, result='"\\u0000 %s :x ä"')
    await assert_completed(database, job_id, '"\\u0000 %s :x ä"')


@pytest.mark.parametrize("opener", ASYNC_OPENERS, ids=_opener_name)
async def test_completion_of_a_stale_attempt_is_refused(
    database: Database, settings: Settings, running_job: PreparedJob, opener: Opener
) -> None:
    with pytest.raises(AttemptNotCurrent) as excinfo:
        async with opener(settings.postgresql_url) as connection:
            await complete_attempt(connection, AttemptKey(running_job.job.id, 2), result="[]")
    assert (excinfo.value.job_id, excinfo.value.attempt) == (running_job.job.id, 2)
    await assert_untouched(database, running_job)


@pytest.mark.parametrize("opener", SYNC_OPENERS, ids=_opener_name)
async def test_stale_attempt_of_a_sync_handler_is_refused(
    database: Database, settings: Settings, running_job: PreparedJob, opener: SyncOpener
) -> None:
    def handle() -> None:
        with opener(settings.postgresql_url) as connection:
            complete_attempt_sync(connection, AttemptKey(running_job.job.id, 2), result="[]")

    with pytest.raises(AttemptNotCurrent):
        await asyncio.to_thread(handle)
    await assert_untouched(database, running_job)


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.RUNNING])
async def test_completion_of_a_waiting_or_ended_job_is_refused(
    database: Database, settings: Settings, state: JobState
) -> None:
    prepared = await prepare_job(database, state)
    attempt = prepared.job.attempt
    with pytest.raises(AttemptNotCurrent):
        async with by_asyncpg(settings.postgresql_url) as connection:
            await complete_attempt(connection, AttemptKey(prepared.job.id, attempt), result="[]")
    await assert_untouched(database, prepared)


async def test_job_with_a_cancel_request_may_succeed(
    database: Database, settings: Settings, running_job: PreparedJob
) -> None:
    async with by_asyncpg(settings.postgresql_url) as connection:
        await complete_attempt(connection, AttemptKey(running_job.job.id, 1), result="null")
        # The worker's end of the attempt waits for the handler's transaction, and is then refused.
        late_end = asyncio.create_task(
            write_ends(
                database,
                running_job.worker_id,
                attempt_end(running_job.job.id, 1, EventType.CANCELLED),
            )
        )
        await asyncio.sleep(0)
    assert await late_end == {}
    await assert_completed(database, running_job.job.id, "null")


async def test_rolled_back_completion_has_no_effect(
    database: Database, settings: Settings, running_job: PreparedJob
) -> None:
    async def completed(attempt: int) -> bool:
        async with database.statement() as connection:
            return await was_completed(connection, AttemptKey(running_job.job.id, attempt))

    async with by_asyncpg(settings.postgresql_url) as connection:
        await complete_attempt(connection, AttemptKey(running_job.job.id, 1), result="1")
        assert not await completed(1)
    assert await completed(1)
    assert not await completed(2)


async def test_completion_in_an_ended_transaction_is_refused(
    database: Database, settings: Settings, running_job: PreparedJob
) -> None:
    async def held_open(attempt: int) -> bool:
        async with database.statement() as connection:
            return await is_held_open(connection, AttemptKey(running_job.job.id, attempt))

    assert not await held_open(1)
    async with by_asyncpg(settings.postgresql_url) as connection:
        await complete_attempt(connection, AttemptKey(running_job.job.id, 1), result="1")
        assert await held_open(1)
        assert not await held_open(2)
    assert not await held_open(1)


async def test_completion_wakes_gateways_at_its_commit(
    database: Database, settings: Settings, running_job: PreparedJob
) -> None:
    async with listening(settings, database, Topic.EVENTS) as events:
        async with by_asyncpg(settings.postgresql_url) as connection:
            await complete_attempt(connection, AttemptKey(running_job.job.id, 1), result="1")
            assert not await events.wait(QUIET_PERIOD_S)
        assert await events.wait(WAKE_UP_TIMEOUT_S) == {Topic.EVENTS}


async def test_recovery_skips_a_job_that_is_being_completed(
    database: Database, settings: Settings, running_job: PreparedJob
) -> None:
    await lapse(database, running_job.worker_id)
    async with by_asyncpg(settings.postgresql_url) as connection:
        await complete_attempt(connection, AttemptKey(running_job.job.id, 1), result="1")
        async with database.transaction() as recovering:
            term = await lead(database)
            assert await recover_lost(recovering, term=term, limit=10, max_losses=3) == []
    await assert_completed(database, running_job.job.id, "1")


async def test_connection_without_a_transaction_is_rejected(
    database: Database, settings: Settings, running_job: PreparedJob
) -> None:
    key = AttemptKey(running_job.job.id, 1)
    connection = await asyncpg.connect(settings.postgresql_url, timeout=60)
    with pytest.raises(ValueError, match="transaction"):
        await complete_attempt(connection, key, result="1")
    connection.terminate()
    async with await psycopg.AsyncConnection.connect(
        settings.postgresql_url, autocommit=True
    ) as autocommit:
        with pytest.raises(ValueError, match="transaction"):
            await complete_attempt(autocommit, key, result="1")
    await assert_untouched(database, running_job)


@pytest.mark.parametrize("opener", SYNC_OPENERS, ids=_opener_name)
async def test_sync_connection_in_the_loop_is_rejected(
    settings: Settings, running_job: PreparedJob, opener: SyncOpener
) -> None:
    with (
        opener(settings.postgresql_url) as connection,
        pytest.raises(TypeError, match=r"not (psycopg|sqlalchemy)"),
    ):
        await complete_attempt(connection, AttemptKey(running_job.job.id, 1), result="1")


@pytest.mark.parametrize("opener", ASYNC_OPENERS, ids=_opener_name)
async def test_async_connection_in_a_sync_handler_is_rejected(
    settings: Settings, running_job: PreparedJob, opener: Opener
) -> None:
    async with opener(settings.postgresql_url) as connection:
        with pytest.raises(TypeError, match=r"not (asyncpg|psycopg|sqlalchemy)"):
            complete_attempt_sync(connection, AttemptKey(running_job.job.id, 1), result="1")


async def assert_untouched(database: Database, prepared: PreparedJob) -> None:
    assert await read_job(database, prepared.job.id) == prepared.job


async def assert_completed(database: Database, job_id: JobId, result: str) -> None:
    job = await read_job(database, job_id)
    assert (job.state, job.result, job.error) == (JobState.SUCCEEDED, result, None)
    events = await history(database, job_id)
    assert [event.type for event in events][-1] is EventType.SUCCEEDED
    assert_legal(job, events)

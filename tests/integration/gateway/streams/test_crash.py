"""Streams continue at their places after a PostgreSQL crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from headrace_core.domain.errors import Unavailable
from headrace_core.domain.lifecycle import EventType
from headrace_core.runtime.settings import Settings
from headrace_core.store.migrate import migrate
from headrace_core.store.sql.database import Database
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.postgres import EmbeddedPostgres
from support.jobs import submit
from support.server import Server, serving
from support.until import until
from support.watching import ManualTail, follow_job, follow_jobs, open_writer, watching
from support.workers import attempt_end, register, start, write_ends

# The maximum number of crashes. One is almost always enough.
MAX_CRASHES = 10


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    """A PostgreSQL server for one test, and its URL."""
    with DataFolder.temporary() as folder:
        postgres = EmbeddedPostgres(folder=folder, ephemeral=True)
        with serving(postgres.program(), log=folder.logs / "postgres.log") as server:
            migrate(Settings(database_url=SecretStr(postgres.url)))
            yield server, postgres.url


@pytest.fixture
def server_settings(settings: Settings, server: tuple[Server, str]) -> Settings:
    """Settings that use this server."""
    return Settings.model_validate({**settings.model_dump(), "database_url": server[1]})


@pytest.fixture
async def server_database(server_settings: Settings) -> AsyncIterator[Database]:
    database = Database(server_settings, application="test")
    try:
        yield database
    finally:
        await database.close()


async def crash(server: Server, database: Database) -> None:
    """Kill all server processes at once, and start the server again."""
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)

    async def is_reachable() -> bool:
        try:
            await database.ping()
        except Unavailable:
            return False
        return True

    await until(is_reachable)


async def test_reused_transaction_ids_hide_no_event(
    server: tuple[Server, str], server_settings: Settings, server_database: Database
):
    """PostgreSQL reuses a transaction id if it crashes before it writes its log to disk.

    PostgreSQL may write its log at any time, so the test crashes it until an id is reused.
    """
    tail = ManualTail(server_settings, server_database)
    await tail.start()
    jobs = []
    for _ in range(MAX_CRASHES):
        jobs.append(await submit(server_database))
        rolled_back = [await open_writer(server_database) for _ in range(5)]
        for writer in rolled_back:
            await writer.roll_back()
        await tail.run()
        ended_before = max(writer.xid for writer in rolled_back)
        known = len(tail.visible)

        await crash(server[0], server_database)
        jobs += [await submit(server_database) for _ in range(8)]
        await tail.run()
        assert [event.job_id for event in tail.visible] == [job.id for job in jobs]
        assert tail.settled == tail.visible
        if any(event.xid <= ended_before for event in tail.visible[known:]):
            return
    pytest.fail("no crash caused a transaction id to be reused")


async def test_crash_loses_only_uncommitted_events(
    server: tuple[Server, str], server_settings: Settings, server_database: Database
):
    tail = ManualTail(server_settings, server_database)
    await tail.start()
    uncommitted = await open_writer(server_database)
    await uncommitted.submit()
    seen = await submit(server_database)
    await tail.run()
    unseen = await submit(server_database)

    await asyncio.to_thread(server[0].kill)
    with pytest.raises(Unavailable):
        await uncommitted.commit()
    await asyncio.to_thread(server[0].start)
    await until(lambda: _run_succeeds(tail))
    later = await submit(server_database)
    await tail.run()
    assert [e.job_id for e in tail.visible] == [seen.id, unseen.id, later.id]
    assert tail.settled == tail.visible


async def _run_succeeds(tail: ManualTail) -> bool:
    try:
        await tail.run()
    except Unavailable:
        return False
    return True


async def test_streams_survive_a_crash(
    server: tuple[Server, str], server_settings: Settings, server_database: Database
):
    worker_id = await register(server_database)
    job = await submit(server_database)
    async with watching(server_settings) as watch:
        one_job, all_jobs = follow_job(watch, job.id), follow_jobs(watch)
        await one_job.has(1)
        await all_jobs.until(lambda reader: bool(reader.pages))
        await start(server_database, worker_id, job)
        await one_job.has(2)
        await all_jobs.has(1)
        await crash(server[0], server_database)
        await write_ends(server_database, worker_id, attempt_end(job.id, 1, EventType.SUCCEEDED))
        await one_job.end()
        await all_jobs.has(2)
        assert one_job.seqs == [1, 2, 3]
        assert all_jobs.seqs == [2, 3]
        await all_jobs.cancel()

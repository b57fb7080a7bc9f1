"""Databases that reject writes: a read-only database, a standby, a locked table."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.settings import Settings
from headrace_core.store.migrate import migrate
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.probe import WriteProbe, check_writes
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.port import free_port
from headrace_standalone.embedded.postgres import EmbeddedPostgres
from support.jobs import submit
from support.read_only import set_read_only
from support.server import Server
from support.until import until


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """A database for a test that changes its settings."""
    return own_database_url


async def rejects_writes(database: Database) -> bool:
    """Return whether the database rejects a write."""
    try:
        await check_writes(database)
    except Unavailable:
        return True
    return False


async def use_all_connections(database: Database, count: int) -> None:
    """Read on `count` connections of the pool at the same time."""
    barrier = asyncio.Barrier(count)

    async def read() -> None:
        async with database.statement() as connection:
            await connection.execute(text("SELECT 1"))
            await barrier.wait()

    async with asyncio.timeout(20):
        await asyncio.gather(*(read() for _ in range(count)))


async def test_read_only_sessions_are_replaced_after_the_fault(
    settings: Settings, database: Database
) -> None:
    await submit(database)
    await set_read_only(settings, read_only=True)
    await until(lambda: rejects_writes(database))
    # All connections of the pool are opened while the database is read-only. Reads still work.
    await use_all_connections(database, settings.database_pool_size)
    await set_read_only(settings, read_only=False, end_sessions=False)
    # The first write fails, and the pool replaces all connections.
    with pytest.raises(Unavailable):
        await check_writes(database)
    outcomes = [rejects_writes(database) for _ in range(settings.database_pool_size)]
    assert not any(await asyncio.gather(*outcomes))
    await submit(database)


async def test_probe_of_a_locked_table_waits_and_recovers(
    settings: Settings, database: Database
) -> None:
    probe = WriteProbe(database)
    await probe.run()
    for table in ("jobs", "job_events"):
        holder = await asyncpg.connect(settings.postgresql_url)
        await holder.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        probing = asyncio.create_task(probe.run())
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database IS NOT NULL"

        async def is_blocked(holder: asyncpg.Connection = holder, query: str = query) -> bool:
            return bool(await holder.fetchval(query))

        await until(is_blocked)
        assert not probing.done()
        await holder.close()
        async with asyncio.timeout(60):
            await probing


async def test_probe_uses_temporary_space_and_writes_no_row(database: Database) -> None:
    await WriteProbe(database, checks_disk=True).run()
    temp_bytes = text("SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()")
    async with database.statement() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM jobs")) == 0

        async def has_used_temp_space() -> bool:
            return int(await connection.scalar(temp_bytes)) > 100_000

        await until(has_used_temp_space)


@dataclass(frozen=True)
class ServerPair:
    """A primary and its standby; `url` names the standby first."""

    primary: Server
    standby: Server
    url: str
    standby_url: str
    settings: Settings


@pytest.fixture(scope="module")
def primary_and_standby() -> Iterator[ServerPair]:
    with DataFolder.temporary() as one, DataFolder.temporary() as two:
        first = EmbeddedPostgres(folder=one, ephemeral=True)
        primary = Server(first.program(), log=one.logs / "postgres.log")
        primary.start()
        try:
            migrate(Settings(database_url=SecretStr(first.url)))
            primary.stop()
            for name in ("postgres", "secrets"):
                _copy_folder(one, two, name)
            (two.path / "postgres" / "standby.signal").touch()
            second = EmbeddedPostgres(folder=two, port=free_port(), ephemeral=True)
            standby = Server(second.program(), log=two.logs / "postgres.log")
            primary.start()
            try:
                standby.start()
                hosts = [urlsplit(url).netloc.rpartition("@")[2] for url in (second.url, first.url)]
                url = first.url.replace(hosts[1], ",".join(hosts))
                settings = Settings(database_url=SecretStr(url), database_timeout=5)
                yield ServerPair(primary, standby, url, second.url, settings)
            finally:
                standby.stop()
        finally:
            primary.stop()


def _copy_folder(one: DataFolder, two: DataFolder, name: str) -> None:
    """Copy a folder and keep the owners of its files."""
    source, target = one.path / name, two.path / name
    shutil.copytree(source, target, dirs_exist_ok=True)
    for path in (source, *source.rglob("*")):
        owner = path.stat()
        shutil.chown(target / path.relative_to(source), owner.st_uid, owner.st_gid)


async def test_url_with_several_hosts_connects_to_the_primary(
    primary_and_standby: ServerPair,
) -> None:
    database = Database(primary_and_standby.settings, application="test")
    try:
        await check_writes(database)
        async with database.session() as session:
            assert not await session.fetchval("SELECT pg_is_in_recovery()")
    finally:
        await database.close()


async def test_standby_is_unavailable_until_its_promotion(primary_and_standby: ServerPair) -> None:
    settings = primary_and_standby.settings.model_copy(
        update={"database_url": SecretStr(primary_and_standby.standby_url)}
    )
    database = Database(settings, application="test")
    reader = Database(settings, application="test", writes=False)
    try:
        with pytest.raises(Unavailable):
            await database.ping()
        with pytest.raises(Unavailable):
            async with database.session():
                pass
        # Commands for operators may read a standby.
        await reader.ping()
        operator = await asyncpg.connect(primary_and_standby.standby_url)
        assert await operator.fetchval("SELECT pg_promote()")
        await operator.close()
        await check_writes(database)
    finally:
        await database.close()
        await reader.close()

"""Faults of PostgreSQL: those that may pass are Unavailable, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql import database as databases
from headrace_core.store.sql.database import Database, until_lost
from headrace_standalone.embedded.port import free_port
from support.jobs import read_job, submit
from support.until import until, until_blocked


@pytest.fixture
async def hasty(settings: Settings) -> AsyncIterator[Database]:
    """The database with two connections and little patience."""
    changes = {"database_pool_size": 2, "database_timeout": 0.3}
    database = Database(settings.model_copy(update=changes), application="test-hasty")
    try:
        yield database
    finally:
        await database.close()


async def test_a_session_that_is_ended_within_a_transaction(database: Database) -> None:
    with pytest.raises(Unavailable) as caught:
        async with database.transaction() as connection:
            pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            async with database.transaction() as other:
                await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            await connection.execute(text("SELECT 1"))
    assert caught.value.dependency == "postgresql"
    # The next one has a connection that lives.
    await database.ping()


async def test_sessions_that_were_ended_while_they_rested(
    database: Database, hasty: Database
) -> None:
    async with database.transaction() as one, database.transaction() as two:
        pids = [await c.scalar(text("SELECT pg_backend_pid()")) for c in (one, two)]
    async with hasty.transaction() as connection:
        for pid in pids:
            await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    async def lives() -> bool:
        try:
            await database.ping()
        except Unavailable:
            return False
        return True

    await until(lives)


async def test_a_statement_that_takes_too_long_on_the_server(database: Database) -> None:
    with pytest.raises(Unavailable):
        async with database.transaction() as connection:
            await connection.execute(text("SET LOCAL statement_timeout = '50ms'"))
            await connection.execute(text("SELECT pg_sleep(10)"))
    await database.ping()


async def test_a_statement_that_takes_too_long_here(hasty: Database) -> None:
    with pytest.raises(Unavailable):
        async with hasty.transaction() as connection:
            await connection.execute(text("SELECT pg_sleep(10)"))
    await hasty.ping()


async def test_a_transaction_that_rests_for_too_long(database: Database) -> None:
    with pytest.raises(Unavailable):
        async with database.transaction() as connection:
            pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '20ms'"))

            async def ended() -> bool:
                async with database.transaction() as other:
                    found = await other.scalar(
                        text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"),
                        {"pid": pid},
                    )
                return bool(found == 0)

            await until(ended)
            await connection.execute(text("SELECT 1"))


async def test_a_lock_that_is_not_to_be_had(database: Database) -> None:
    job = await submit(database)
    async with database.transaction() as holder:
        await holder.execute(text("UPDATE jobs SET priority = 1"))
        with pytest.raises(Unavailable):
            async with database.transaction() as connection:
                await connection.execute(text("SET LOCAL lock_timeout = '20ms'"))
                await connection.execute(text("UPDATE jobs SET priority = 2"))
    assert (await read_job(database, job.id)).priority == 1


async def test_a_deadlock(database: Database) -> None:
    one, two = await submit(database), await submit(database)
    update = text("UPDATE jobs SET priority = 1 WHERE id = :id")

    async def cross(database: Database) -> None:
        async with database.transaction() as connection:
            await connection.execute(update, {"id": two.id})
            await connection.execute(update, {"id": one.id})

    outcomes: list[BaseException | None] = []
    try:
        async with database.transaction() as connection:
            await connection.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
            await connection.execute(update, {"id": one.id})
            crossing = asyncio.create_task(cross(database))
            await until_blocked(database)
            await connection.execute(update, {"id": two.id})
    except Unavailable as fault:
        outcomes.append(fault)
    outcomes += await asyncio.gather(crossing, return_exceptions=True)
    # One of the two gave way.
    assert [type(outcome) for outcome in outcomes if outcome] == [Unavailable]


async def test_no_connection_is_free(hasty: Database) -> None:
    async with hasty.transaction(), hasty.transaction():
        with pytest.raises(Unavailable):
            await hasty.ping()
    await hasty.ping()


async def test_no_server_is_there(settings: Settings) -> None:
    url = SecretStr(f"postgresql://headrace@127.0.0.1:{free_port()}/headrace")
    database = Database(settings.model_copy(update={"database_url": url}), application="test")
    with pytest.raises(Unavailable):
        await database.ping()
    with pytest.raises(Unavailable):
        async with database.session():
            pass
    await database.close()


# Mistakes of ours do not pass, however often they are tried again.


async def test_who_was_let_in_may_be_again(settings: Settings, database: Database) -> None:
    await database.ping()
    name = settings.postgresql_url.rpartition("/")[2]
    other = settings.postgresql_url.removesuffix(name) + "postgres"
    operator = await asyncpg.connect(other)
    newcomer = Database(settings, application="test-newcomer")
    try:
        await operator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await operator.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name
        )
        for _ in range(2):
            with pytest.raises(Unavailable):
                await database.ping()
        # Who never was may have a wrong setting, and is told what the server says.
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await newcomer.ping()
    finally:
        await operator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await operator.close()
        await newcomer.close()
    await database.ping()


async def test_a_value_that_its_type_cannot_hold(database: Database) -> None:
    with pytest.raises(asyncpg.DataError, match="int32"):
        async with database.transaction() as connection:
            await connection.execute(text("SELECT CAST(:n AS integer)"), {"n": 2**40})


async def test_a_row_that_a_check_refuses(database: Database) -> None:
    await submit(database)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="jobs_priority_check"):
        async with database.transaction() as connection:
            await connection.execute(text("UPDATE jobs SET priority = 101"))


async def test_a_statement_that_is_wrong(database: Database) -> None:
    with pytest.raises(asyncpg.UndefinedColumnError):
        async with database.transaction() as connection:
            await connection.execute(text("SELECT no_such_column"))


async def test_an_error_of_the_caller_passes_through_and_undoes_the_transaction(
    database: Database,
) -> None:
    job = await submit(database)
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as connection:
            await connection.execute(text("UPDATE jobs SET priority = 1"))
            raise ZeroDivisionError
    with pytest.raises(asyncio.CancelledError):
        async with database.transaction() as connection:
            await connection.execute(text("UPDATE jobs SET priority = 1"))
            raise asyncio.CancelledError
    assert (await read_job(database, job.id)).priority == 0


async def test_a_transaction_in_which_nothing_happens_holds_its_locks_for_a_bounded_time(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await submit(database)
    monkeypatch.setattr(databases, "_IDLE_TRANSACTION_MS", 200)
    stands_still = Database(settings, application="test-still")
    with pytest.raises(Unavailable):
        async with stands_still.transaction() as connection:
            await connection.execute(text("UPDATE jobs SET priority = 1"))
            async with asyncio.timeout(10), database.transaction() as other:
                await other.execute(text("UPDATE jobs SET priority = 2"))
    await stands_still.close()
    assert (await read_job(database, job.id)).priority == 2


# Sessions of their own.


async def test_a_session_leaves_no_connection_behind(hasty: Database) -> None:
    for _ in range(10):
        async with hasty.session() as raw:
            assert await raw.fetchval("SELECT 1") == 1
    # Both places of the pool are free.
    async with hasty.transaction(), hasty.transaction() as connection:
        count = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'headrace-test-hasty'"
        )

        async def alone() -> bool:
            return bool(await connection.scalar(count) == 2)

        await until(alone)


async def test_the_end_of_a_session_is_noticed_at_once(database: Database) -> None:
    async def hold() -> None:
        async with database.session() as raw:
            held.set_result(await raw.fetchval("SELECT pg_backend_pid()"))
            # The probe alone would take an hour.
            await until_lost(raw, probe=3600)

    held: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    holding = asyncio.create_task(hold())
    async with asyncio.timeout(15):
        pid = await held
        async with database.transaction() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(Unavailable):
            await holding


async def test_the_server_says_what_is_ours(database: Database) -> None:
    async with database.transaction() as connection:
        said = {
            name: await connection.scalar(text(f"SHOW {name}"))
            for name in (
                "application_name",
                "transaction_isolation",
                "plan_cache_mode",
                "jit",
                "idle_in_transaction_session_timeout",
            )
        }
    assert said == {
        "application_name": "headrace-test",
        "transaction_isolation": "read committed",
        "plan_cache_mode": "force_generic_plan",
        "jit": "off",
        "idle_in_transaction_session_timeout": "10s",
    }


async def test_options_of_the_url_reach_the_server_or_are_ignored(settings: Settings) -> None:
    options = (
        "sslmode=prefer&channel_binding=prefer&gssencmode=disable&connect_timeout=10&keepalives=1"
        "&keepalives_idle=30&target_session_attrs=read-write&options=-c%20work_mem%3D5MB"
    )
    url = SecretStr(f"{settings.postgresql_url}?{options}")
    database = Database(settings.model_copy(update={"database_url": url}), application="test")
    async with database.statement() as connection:
        assert await connection.scalar(text("SHOW work_mem")) == "5MB"
        assert await connection.scalar(text("SHOW search_path")) == "headrace"
    await database.close()


async def test_a_full_disk_may_pass_and_the_log_is_told_of_it(database: Database) -> None:
    full = text(
        "DO $$ BEGIN RAISE EXCEPTION 'no room left' "
        "USING ERRCODE = 'disk_full', DETAIL = 'a row'; END $$"
    )
    with pytest.raises(Unavailable) as caught:
        async with database.statement() as connection:
            await connection.execute(full)
    assert caught.value.cause == "DiskFullError: no room left"
    # Clients are told neither of disks nor of drivers.
    assert "room" not in str(caught.value)
    await database.ping()

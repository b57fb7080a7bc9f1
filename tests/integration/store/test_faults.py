"""PostgreSQL faults: only transient faults raise Unavailable."""

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
async def impatient_database(settings: Settings) -> AsyncIterator[Database]:
    """The database with two connections and short timeouts."""
    changes = {"database_pool_size": 2, "database_timeout": 0.3}
    database = Database(settings.model_copy(update=changes), application="test-impatient")
    try:
        yield database
    finally:
        await database.close()


async def test_session_ended_in_a_transaction_is_unavailable(database: Database) -> None:
    with pytest.raises(Unavailable) as excinfo:
        async with database.transaction() as connection:
            pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            async with database.transaction() as other:
                await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            await connection.execute(text("SELECT 1"))
    assert excinfo.value.dependency == "postgresql"
    # The next statement receives a live connection.
    await database.ping()


async def test_sessions_ended_while_idle_are_replaced(
    database: Database, impatient_database: Database
) -> None:
    async with database.transaction() as one, database.transaction() as two:
        pids = [await c.scalar(text("SELECT pg_backend_pid()")) for c in (one, two)]
    async with impatient_database.transaction() as connection:
        for pid in pids:
            await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    async def is_reachable() -> bool:
        try:
            await database.ping()
        except Unavailable:
            return False
        return True

    await until(is_reachable)


async def test_server_statement_timeout_is_unavailable(database: Database) -> None:
    with pytest.raises(Unavailable):
        async with database.transaction() as connection:
            await connection.execute(text("SET LOCAL statement_timeout = '50ms'"))
            await connection.execute(text("SELECT pg_sleep(10)"))
    await database.ping()


async def test_client_statement_timeout_is_unavailable(impatient_database: Database) -> None:
    with pytest.raises(Unavailable):
        async with impatient_database.transaction() as connection:
            await connection.execute(text("SELECT pg_sleep(10)"))
    await impatient_database.ping()


async def test_idle_transaction_timeout_is_unavailable(database: Database) -> None:
    with pytest.raises(Unavailable):
        async with database.transaction() as connection:
            pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '20ms'"))

            async def session_has_ended() -> bool:
                async with database.transaction() as other:
                    session_pid = await other.scalar(
                        text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"),
                        {"pid": pid},
                    )
                return bool(session_pid == 0)

            await until(session_has_ended)
            await connection.execute(text("SELECT 1"))


async def test_lock_timeout_is_unavailable(database: Database) -> None:
    job = await submit(database)
    async with database.transaction() as holder:
        await holder.execute(text("UPDATE jobs SET priority = 1"))
        with pytest.raises(Unavailable):
            async with database.transaction() as connection:
                await connection.execute(text("SET LOCAL lock_timeout = '20ms'"))
                await connection.execute(text("UPDATE jobs SET priority = 2"))
    assert (await read_job(database, job.id)).priority == 1


async def test_deadlock_is_unavailable(database: Database) -> None:
    one, two = await submit(database), await submit(database)
    update = text("UPDATE jobs SET priority = 1 WHERE id = :id")

    async def update_crosswise(database: Database) -> None:
        async with database.transaction() as connection:
            await connection.execute(update, {"id": two.id})
            await connection.execute(update, {"id": one.id})

    outcomes: list[BaseException | None] = []
    try:
        async with database.transaction() as connection:
            await connection.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
            await connection.execute(update, {"id": one.id})
            crossing = asyncio.create_task(update_crosswise(database))
            await until_blocked(database)
            await connection.execute(update, {"id": two.id})
    except Unavailable as fault:
        outcomes.append(fault)
    outcomes += await asyncio.gather(crossing, return_exceptions=True)
    # PostgreSQL aborted one of the two transactions.
    assert [type(outcome) for outcome in outcomes if outcome] == [Unavailable]


async def test_exhausted_pool_is_unavailable(impatient_database: Database) -> None:
    async with impatient_database.transaction(), impatient_database.transaction():
        with pytest.raises(Unavailable):
            await impatient_database.ping()
    await impatient_database.ping()


async def test_missing_server_is_unavailable(settings: Settings) -> None:
    url = SecretStr(f"postgresql://headrace@127.0.0.1:{free_port()}/headrace")
    database = Database(settings.model_copy(update={"database_url": url}), application="test")
    with pytest.raises(Unavailable):
        await database.ping()
    with pytest.raises(Unavailable):
        async with database.session():
            pass
    await database.close()


# Errors that the caller caused. They are not retried.


async def test_refused_login_after_a_success_is_unavailable(
    settings: Settings, database: Database
) -> None:
    await database.ping()
    name = settings.postgresql_url.rpartition("/")[2]
    other = settings.postgresql_url.removesuffix(name) + "postgres"
    operator = await asyncpg.connect(other)
    new_database = Database(settings, application="test-newcomer")
    try:
        await operator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await operator.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name
        )
        for _ in range(2):
            with pytest.raises(Unavailable):
                await database.ping()
        # Before the first successful login, the settings may be wrong, so the error contains the
        # server's message.
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await new_database.ping()
    finally:
        await operator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await operator.close()
        await new_database.close()
    await database.ping()


async def test_value_out_of_range_raises_the_database_error(database: Database) -> None:
    with pytest.raises(asyncpg.DataError, match="int32"):
        async with database.transaction() as connection:
            await connection.execute(text("SELECT CAST(:n AS integer)"), {"n": 2**40})


async def test_violated_check_raises_the_database_error(database: Database) -> None:
    await submit(database)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="jobs_priority_check"):
        async with database.transaction() as connection:
            await connection.execute(text("UPDATE jobs SET priority = 101"))


async def test_invalid_statement_raises_the_database_error(database: Database) -> None:
    with pytest.raises(asyncpg.UndefinedColumnError):
        async with database.transaction() as connection:
            await connection.execute(text("SELECT no_such_column"))


async def test_caller_error_rolls_back_and_is_raised(
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


async def test_idle_transaction_times_out_and_releases_its_locks(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await submit(database)
    monkeypatch.setattr(databases, "_IDLE_TRANSACTION_MS", 200)
    idle = Database(settings, application="test-still")
    with pytest.raises(Unavailable):
        async with idle.transaction() as connection:
            await connection.execute(text("UPDATE jobs SET priority = 1"))
            async with asyncio.timeout(60), database.transaction() as other:
                await other.execute(text("UPDATE jobs SET priority = 2"))
    await idle.close()
    assert (await read_job(database, job.id)).priority == 2


# Sessions outside the pool.


async def test_session_closes_its_connection_at_its_end(impatient_database: Database) -> None:
    for _ in range(10):
        async with impatient_database.session() as raw:
            assert await raw.fetchval("SELECT 1") == 1
    # Both pool connections are free.
    async with impatient_database.transaction(), impatient_database.transaction() as connection:
        count = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'headrace-test-impatient'"
        )

        async def only_these_are_open() -> bool:
            return bool(await connection.scalar(count) == 2)

        await until(only_these_are_open)


async def test_end_of_a_session_is_detected_at_once(database: Database) -> None:
    async def hold() -> None:
        async with database.session() as raw:
            session_pid.set_result(await raw.fetchval("SELECT pg_backend_pid()"))
            # The probe would detect the end only after an hour.
            await until_lost(raw, probe=3600)

    session_pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    holding = asyncio.create_task(hold())
    async with asyncio.timeout(15):
        pid = await session_pid
        async with database.transaction() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(Unavailable):
            await holding


async def test_sessions_use_headraces_settings(database: Database) -> None:
    async with database.transaction() as connection:
        values = {
            name: await connection.scalar(text(f"SHOW {name}"))
            for name in (
                "application_name",
                "transaction_isolation",
                "plan_cache_mode",
                "jit",
                "idle_in_transaction_session_timeout",
            )
        }
    assert values == {
        "application_name": "headrace-test",
        "transaction_isolation": "read committed",
        "plan_cache_mode": "force_generic_plan",
        "jit": "off",
        "idle_in_transaction_session_timeout": "10s",
    }


async def test_url_options_are_applied_or_ignored(settings: Settings) -> None:
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


async def test_full_disk_is_unavailable_and_logged(database: Database) -> None:
    full = text(
        "DO $$ BEGIN RAISE EXCEPTION 'no room left' "
        "USING ERRCODE = 'disk_full', DETAIL = 'a row'; END $$"
    )
    with pytest.raises(Unavailable) as excinfo:
        async with database.statement() as connection:
            await connection.execute(full)
    assert excinfo.value.cause == "DiskFullError: no room left"
    # The message for clients mentions neither disks nor drivers.
    assert "room" not in str(excinfo.value)
    await database.ping()

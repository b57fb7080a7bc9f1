"""`headrace doctor`: its findings about healthy and unhealthy servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import text

from headrace_core.delivery.redis_server import RedisServer, read_redis
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.probe import write_fault
from headrace_core.store.upkeep.diagnosis import (
    DatabaseServer,
    LeaderState,
    OpenTransaction,
    TableHealth,
    WorkerState,
    oldest_transaction,
    read_leader,
    read_server,
    read_tables,
    read_workers,
    settled_lag,
    unserved_lanes,
)
from headrace_gateway.service import Gateway
from headrace_ops import findings
from headrace_ops.findings import Finding, Level
from headrace_ops.servers import describe_database, describe_redis
from support.commands import Headrace
from support.databases import Databases
from support.jobs import submit
from support.read_only import set_read_only
from support.states import prepare_job
from support.until import until
from support.valkey import OwnValkey, own_valkey
from support.watching import foreign_transaction
from support.workers import lapse, register

# Findings from given facts.

SERVER = DatabaseServer(
    version="18.1",
    version_number=180001,
    standby=False,
    connections=10,
    max_connections=100,
    size=2**30,
    sees_others=True,
    settings={
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "autovacuum": "on",
        "statement_timeout": "0",
    },
)
SESSIONS = {
    "headrace-gateway": 3,
    "headrace-gateway-listen": 1,
    "headrace-scheduler-listen": 2,
    "headrace-worker-listen": 1,
}
WORKER = WorkerState(
    name="one",
    pool="pool",
    queues=(),
    types=3,
    slots=10,
    running=4,
    draining=False,
    lease=timedelta(seconds=12),
)
REDIS = RedisServer(
    name="Valkey",
    release="9.0.1",
    version="7.2.4",
    connections=3,
    memory=2**20,
    max_memory=0,
    policy="noeviction",
)


def worst_level(found: list[Finding] | Finding) -> Level:
    """Return the worst level; assert that each finding worse than OK has advice."""
    found = [found] if isinstance(found, Finding) else found
    assert all(one.advice for one in found if one.level is not Level.OK)
    return max((one.level for one in found), key=list(Level).index)


def server_with_setting(name: str, value: str) -> DatabaseServer:
    return replace(SERVER, settings={**SERVER.settings, name: value})


def test_healthy_server_is_ok() -> None:
    assert worst_level([*findings.check_server(SERVER, pool_size=10)]) is Level.OK


def test_setting_that_reduces_durability_is_bad() -> None:
    for name in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):
        found = [*findings.check_server(server_with_setting(name, "off"), pool_size=10)]
        assert worst_level(found) is Level.BAD
        assert any(f"Set {name} = on." == one.advice for one in found)


def test_each_server_fault_has_its_level() -> None:
    levels = {
        Level.BAD: (
            replace(SERVER, version_number=130_010),
            replace(SERVER, standby=True),
            replace(SERVER, connections=97),
            server_with_setting("default_transaction_read_only", "on"),
        ),
        Level.WARN: (
            replace(SERVER, connections=85),
            server_with_setting("statement_timeout", "1000"),
            # The numbers are for 1 gateway, 2 schedulers and 7 workers.
            replace(SERVER, sessions=SESSIONS | {"headrace-worker-listen": 7}),
        ),
        Level.OK: (
            server_with_setting("statement_timeout", "30000"),
            replace(SERVER, sessions=SESSIONS),
        ),
    }
    for level, servers in levels.items():
        for server in servers:
            assert worst_level([*findings.check_server(server, pool_size=10)]) is level


def test_schema_version_must_match() -> None:
    known = ["0001", "0002"]
    assert findings.check_schema("0002", "0002", known).level is Level.OK
    for found, advice in ((None, "migrate"), ("0001", "migrate"), ("0009", "upgrade")):
        finding = findings.check_schema(found, "0002", known)
        assert finding.level is Level.BAD
        assert advice in finding.advice


def test_clock_offset_within_the_measurement_error_is_ok() -> None:
    def clock_level(seconds: float, duration: float) -> Level:
        return worst_level(
            findings.check_clock(timedelta(seconds=seconds), timedelta(seconds=duration))
        )

    assert clock_level(0.01, 0.1) is Level.OK
    assert clock_level(0.9, 0.0) is Level.OK
    assert clock_level(1.5, 0.1) is Level.WARN
    assert clock_level(-600, 0.1) is Level.WARN
    assert clock_level(1.5, 1.0) is Level.OK


def test_long_open_transaction_is_reported() -> None:
    def findings_for(age: timedelta, lag: float = 0.0) -> list[Finding]:
        oldest = OpenTransaction(pid=7, application="psql", user="ann", state="idle", age=age)
        lagging = timedelta(seconds=lag)
        return [*findings.check_transactions(oldest, lagging, sees_others=True)]

    none = findings.check_transactions(None, timedelta(), sees_others=True)
    assert worst_level([*none]) is Level.OK
    assert worst_level(findings_for(timedelta(seconds=10))) is Level.OK
    assert worst_level(findings_for(timedelta(seconds=10), lag=11)) is Level.WARN
    [open_one, _] = findings_for(timedelta(minutes=5))
    assert open_one.level is Level.WARN
    assert "psql as ann" in open_one.text
    assert "pg_terminate_backend(7)" in open_one.advice
    assert worst_level(findings_for(timedelta(hours=2))) is Level.BAD


def test_role_that_cannot_see_other_sessions_is_a_warning() -> None:
    found = findings.check_transactions(None, timedelta(), sees_others=False)
    [transactions, _] = found
    assert transactions.level is Level.WARN
    assert "other roles" in transactions.text
    assert "GRANT pg_read_all_stats" in transactions.advice


def test_many_dead_rows_are_reported() -> None:
    def dead_rows_level(live: int, dead: int) -> Level:
        table = TableHealth(name="jobs", live=live, dead=dead, vacuum_time=None)
        return worst_level([*findings.check_tables([table])])

    assert dead_rows_level(0, 0) is Level.OK
    assert dead_rows_level(10, 10_000) is Level.OK
    assert dead_rows_level(1_000_000, 100_000) is Level.OK
    assert dead_rows_level(100_000, 100_000) is Level.WARN


def test_missing_leader_is_bad() -> None:
    assert worst_level(findings.check_leader(None)) is Level.BAD
    assert worst_level(findings.check_leader(LeaderState(term=3, lease=None))) is Level.BAD
    led = LeaderState(term=3, lease=timedelta(seconds=5))
    assert worst_level(findings.check_leader(led)) is Level.OK


def test_each_worker_fault_has_its_level() -> None:
    assert worst_level([*findings.check_workers([WORKER])]) is Level.OK
    assert worst_level([*findings.check_workers([])]) is Level.BAD
    lapsed = replace(WORKER, lease=timedelta(seconds=-1))
    assert worst_level([*findings.check_workers([lapsed])]) is Level.BAD
    assert worst_level([*findings.check_workers([WORKER, lapsed])]) is Level.OK
    assert worst_level([*findings.check_workers([replace(WORKER, running=10)])]) is Level.WARN
    assert worst_level([*findings.check_workers([replace(WORKER, types=0)])]) is Level.WARN


def test_each_redis_fault_has_its_level() -> None:
    def redis_level(**changes: object) -> Level:
        return worst_level([*findings.check_redis(replace(REDIS, **changes))])

    assert redis_level() is Level.OK
    assert redis_level(version="6.2.14") is Level.BAD
    assert redis_level(version="8.0") is Level.OK
    assert redis_level(max_memory=2**30) is Level.OK
    assert redis_level(max_memory=2**30, policy="allkeys-lru") is Level.WARN
    assert redis_level(max_memory=2**20) is Level.WARN
    assert worst_level(findings.redis_unreachable("10.0.0.7:6379/0")) is Level.BAD


# Facts read from real servers.


async def test_facts_of_a_new_database_are_read(database: Database) -> None:
    async with database.snapshot(statement_timeout=10) as connection:
        server = await read_server(connection)
        tables = await read_tables(connection)
        leader = await read_leader(connection)
    assert server.version_number >= 140_000
    assert 0 < server.connections <= server.max_connections
    assert server.settings["synchronous_commit"] == "on"
    assert {table.name for table in tables} == {"jobs", "job_events"}
    assert findings.check_leader(leader).level is Level.BAD


async def test_leader_with_a_lapsed_lease_does_not_count(database: Database) -> None:
    async def lead(until: str) -> LeaderState | None:
        async with database.transaction() as connection:
            await connection.execute(text("DELETE FROM leadership"))
            await connection.execute(
                text(
                    "INSERT INTO leadership (term, holder, lease_expire_time) "
                    f"VALUES (7, gen_random_uuid(), now() + interval '{until}')"
                )
            )
            return await read_leader(connection)

    led = await lead("10 s")
    assert led is not None
    assert led.lease is not None
    assert (led.term, timedelta() < led.lease <= timedelta(seconds=10)) == (7, True)
    assert await lead("-1 s") == LeaderState(term=7, lease=None)


async def test_workers_are_read_with_their_load(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    lapsed = await register(database, queues=("mail",))
    await lapse(database, lapsed)
    async with database.snapshot(statement_timeout=10) as connection:
        workers = await read_workers(connection)
    assert len(workers) == 2
    [live] = [worker for worker in workers if worker.lease > timedelta()]
    assert (live.running, live.slots, live.types) == (1, 10, 1)
    assert prepared.job.state is JobState.RUNNING


async def test_unserved_lanes_are_read_with_their_age(database: Database) -> None:
    await register(database, "test", queues=("mail",))
    for queue, job_type in (("mail", "test"), ("mail", "other"), ("default", "test")):
        await submit(database, queue=queue, type=job_type)
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE jobs SET queue_time = now() - interval '1 h' WHERE type = 'other'")
        )
        lanes = await unserved_lanes(connection)
    assert [(lane.queue, lane.type) for lane in lanes] == [("mail", "other"), ("default", "test")]
    assert lanes[0].age >= timedelta(hours=1)
    assert all(one.level is Level.WARN for one in findings.check_lanes(lanes))


async def test_open_transaction_is_reported_with_its_session(
    settings: Settings, database: Database
) -> None:
    holder = await asyncpg.connect(
        settings.postgresql_url, server_settings={"application_name": "psql of a user"}
    )
    try:
        await holder.execute("BEGIN")
        await holder.execute("SELECT pg_current_xact_id()")
        await submit(database)
        async with database.snapshot(statement_timeout=10) as connection:
            oldest = await oldest_transaction(connection)
            lag = await settled_lag(connection)
    finally:
        await holder.close()
    assert oldest is not None
    assert (oldest.application, oldest.state) == ("psql of a user", "idle in transaction")
    assert lag > timedelta()
    async with database.snapshot(statement_timeout=10) as connection:
        assert await settled_lag(connection) == timedelta()


@pytest.fixture
def other_database(databases: Databases) -> Iterator[str]:
    """Another database in the same cluster."""
    with databases.fresh(migrated=False) as url:
        yield url


async def test_transaction_in_another_database_names_it(
    database: Database, other_database: str
) -> None:
    holder = await asyncpg.connect(other_database)
    try:
        await holder.execute("BEGIN")
        await holder.execute("SELECT pg_current_xact_id()")
        async with database.snapshot(statement_timeout=10) as connection:
            oldest = await oldest_transaction(connection)
    finally:
        await holder.close()
    assert oldest is not None
    name = urlsplit(other_database).path.removeprefix("/")
    assert oldest.state == f"idle in transaction in the database {name}"


@pytest.mark.parametrize("granted", [False, True])
async def test_role_without_privilege_does_not_see_other_sessions(
    database: Database, granted: bool
) -> None:
    role = "headrace_test_doctor"
    async with foreign_transaction(database), database.transaction() as connection:
        await connection.execute(text(f"CREATE ROLE {role}"))
        if granted:
            await connection.execute(text(f"GRANT pg_read_all_stats TO {role}"))
        await connection.execute(text(f"SET LOCAL ROLE {role}"))
        server = await read_server(connection)
        oldest = await oldest_transaction(connection)
        # The rollback also removes the role.
        await connection.rollback()
    assert server.sees_others is granted
    assert (oldest is not None) is granted


async def test_initial_statement_timeout_of_a_session_is_read(
    settings: Settings, database: Database
) -> None:
    async with database.transaction() as connection:
        await connection.execute(_SET_STATEMENT_TIMEOUT)
    limited = Database(settings, application="limited")
    async with limited.snapshot(statement_timeout=10) as connection:
        server = await read_server(connection)
    await limited.close()
    assert server.settings["statement_timeout"] == "1234"


_SET_STATEMENT_TIMEOUT = text("""
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET statement_timeout = 1234', current_database());
    END $$
""")


async def test_redis_facts_are_read(settings: Settings) -> None:
    server = await read_redis(settings)
    assert worst_level([*findings.check_redis(server)]) is Level.OK
    assert server.memory > 0


async def test_listening_sessions_count_the_gateways(
    settings: Settings, database: Database
) -> None:
    gateway = Gateway(settings)
    await gateway.start()
    try:

        async def connections_text() -> str:
            async with database.snapshot(statement_timeout=10) as connection:
                server = await read_server(connection)
            found = [*findings.check_server(server, pool_size=10)]
            [text] = [one.text for one in found if one.topic == "connections"]
            return text if server.sessions.get("headrace-gateway-listen") == 1 else ""

        assert "1 gateway may open 11 with" in await until(connections_text)
    finally:
        await gateway.stop()


async def test_rejected_writes_are_bad(
    headrace: Headrace, settings: Settings, database: Database
) -> None:
    assert await write_fault(database, within=10) is None
    async with database.transaction() as holder:
        await holder.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        assert await write_fault(database, within=0.5) == "no response within 0.5 s"
    await set_read_only(settings, read_only=True)

    async def rejects_writes() -> bool:
        fault = await write_fault(database, within=10)
        return fault is not None and "read-only transaction" in fault

    await until(rejects_writes)
    assert worst_level(findings.check_writes("read-only")) is Level.BAD
    output = " ".join(headrace(settings, "doctor").stdout.split())
    assert "bad writes: jobs cannot be stored: cannot execute SELECT in a read-only" in output
    assert "default_transaction_read_only is on" in output


@pytest.fixture
def full_valkey() -> Iterator[OwnValkey]:
    """A Valkey without free memory."""
    with own_valkey("--maxmemory", "1", "--maxmemory-policy", "noeviction") as valkey:
        yield valkey


async def test_redis_that_rejects_writes_is_bad(settings: Settings, full_valkey: OwnValkey) -> None:
    url = SecretStr(full_valkey.url)
    server = await read_redis(settings.model_copy(update={"redis_url": url}))
    found = [*findings.check_redis(server)]
    assert any("Redis rejects writes: command not allowed" in one.text for one in found)
    assert worst_level(found) is Level.BAD


# The command.


def password(settings: Settings) -> str:
    return settings.postgresql_url.partition("//headrace:")[2].partition("@")[0]


async def test_doctor_prints_bad_findings_with_advice(
    headrace: Headrace, settings: Settings, database: Database
) -> None:
    completed = headrace(settings, "doctor")
    assert completed.returncode == 1, completed.stderr
    assert "bad  scheduler: no scheduler leads" in completed.stdout
    assert "→ Start python -m headrace_scheduler" in completed.stdout
    assert "ok   schema:" in completed.stdout
    secret = password(settings)
    assert secret
    assert secret not in completed.stdout + completed.stderr
    output = json.loads(headrace(settings, "doctor", "--json").stdout)
    assert output["verdict"] == "bad"
    topics = {finding["topic"] for finding in output["findings"]}
    assert {"headrace", "postgresql", "connections", "clock", "redis", "transactions"} <= topics


async def test_working_installation_has_no_bad_findings(
    headrace: Headrace, settings: Settings, database: Database
) -> None:
    await register(database)
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO leadership (term, holder, lease_expire_time) "
                "VALUES (1, gen_random_uuid(), now() + interval '1 min')"
            )
        )
    output = json.loads(headrace(settings, "doctor", "-o", "json").stdout)
    bad_topics = {one["topic"] for one in output["findings"] if one["level"] == "bad"}
    # The test server runs with durability disabled.
    assert bad_topics <= {"fsync", "full_page_writes"}


async def test_unreachable_redis_is_bad(
    headrace: Headrace, settings: Settings, database: Database
) -> None:
    without_redis = settings.model_copy(
        update={"redis_url": SecretStr("redis://:pa55@127.0.0.1:1/0")}
    )
    completed = headrace(without_redis, "doctor")
    assert completed.returncode == 1
    assert "bad  redis: Redis cannot be reached at 127.0.0.1:1/0" in completed.stdout
    assert "pa55" not in completed.stdout + completed.stderr


async def test_older_schema_is_reported_with_its_migration(
    headrace: Headrace, settings: Settings, database: Database
) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE headrace_version SET version_num = '0001'"))
        await connection.execute(text("DROP TABLE leadership"))
    completed = headrace(settings, "doctor")
    assert completed.returncode == 1
    assert "→ Run: python -m headrace_core migrate" in completed.stdout


async def test_unreachable_database_exits_with_2(headrace: Headrace, settings: Settings) -> None:
    url = SecretStr("postgresql://headrace:pa55word@127.0.0.1:1/headrace")
    completed = headrace(settings.model_copy(update={"database_url": url}), "doctor")
    assert completed.returncode == 2
    # Join the wrapped lines.
    output = " ".join(completed.stderr.split())
    assert "check failed: the database at 127.0.0.1:1/headrace cannot be reached" in output
    assert "--data FOLDER" in output
    assert "pa55word" not in completed.stdout + completed.stderr


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("postgresql://me:pa55@db.example/jobs", "db.example:5432/jobs"),
        ("postgresql://me:pa55@db.example:6543/jobs", "db.example:6543/jobs"),
        ("postgresql://me:pa55@[::1]/jobs", "[::1]:5432/jobs"),
        ("postgresql://me:pa55@[::1]:6543/jobs", "[::1]:6543/jobs"),
        ("postgresql://me:pa55@one,two:6543/jobs", "one:5432,two:6543/jobs"),
        ("postgresql://me:pa55@/jobs?host=/run/pg&password=pa55", "/run/pg:5432/jobs"),
    ],
)
def test_database_location_has_only_host_and_port(url: str, where: str) -> None:
    assert describe_database(Settings(database_url=SecretStr(url))) == where


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://me:pa55@cache.example/3", "cache.example:6379/3"),
        ("rediss://:pa55@cache.example:6380/0", "cache.example:6380/0"),
        ("unix:///run/valkey.sock?db=5", "/run/valkey.sock"),
    ],
)
def test_redis_location_has_only_host_and_port(url: str, where: str) -> None:
    assert describe_redis(Settings(redis_url=SecretStr(url))) == where


async def test_valkey_is_named_with_its_own_version(settings: Settings) -> None:
    server = await read_redis(settings)
    client = Redis.from_url(settings.redis_url.get_secret_value())
    info = await client.info("server")
    await client.aclose()
    expected = info.get("valkey_version", info["redis_version"])
    assert (server.release, server.version) == (expected, info["redis_version"])
    assert server.name in {"Valkey", "Redis"}
    [found, *_] = findings.check_redis(server)
    assert found.text.startswith(f"{server.name} {expected}, ")

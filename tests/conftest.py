"""One embedded PostgreSQL and one Valkey for the whole session, and a fresh database per test.

`HEADRACE_TEST_DATABASE_URL` and `HEADRACE_TEST_REDIS_URL` select external servers instead: a
PostgreSQL role that may create databases, and a Redis database that may be flushed.

With `HEADRACE_TEST_ROLES=1` each service connects with a role that has only its own privileges.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

# The tests run services and start processes from one process. gRPC's fork handlers would stop its
# threads at each fork, and might hang. A worker sets the same variable, which gRPC reads when it is
# imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import hypothesis
import pytest
from redis.asyncio import Redis as AsyncRedis

from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.wake import WakeBus
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.postgres import EmbeddedPostgres
from headrace_standalone.embedded.valkey import EmbeddedValkey
from support.databases import Databases, shorten_logins
from support.roles import service_roles, use_roles
from support.server import serving
from support.settings import empty_redis, short_settings

# The tests ignore a developer's settings.
for _name in list(os.environ):
    if _name.startswith("HEADRACE_") and not _name.startswith("HEADRACE_TEST_"):
        del os.environ[_name]

# The embedded server has no TLS. Without this variable, each connection would ask for it first.
if "HEADRACE_TEST_DATABASE_URL" not in os.environ:
    os.environ["PGSSLMODE"] = "disable"

# Property tests have no time limit, since machines differ in speed.
hypothesis.settings.register_profile("headrace", deadline=None)
hypothesis.settings.load_profile("headrace")

# The collected tests and modules are more than a million objects. They stay alive until the end, so
# the garbage collector need not examine them.
gc.disable()


def pytest_collection_finish() -> None:
    """Exempt all existing objects from garbage collection, and turn it on."""
    gc.collect()
    gc.freeze()
    gc.enable()


# A shell without job control starts background processes with SIGINT ignored. Children inherit
# this, so a child that a test interrupts would ignore the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_folder() -> Iterator[DataFolder]:
    """A folder for the data of the session's servers."""
    with DataFolder.temporary() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres_url(data_folder: DataFolder) -> Iterator[str]:
    """A PostgreSQL server, whose default database no test changes."""
    if url := os.environ.get("HEADRACE_TEST_DATABASE_URL"):
        yield url
        return
    postgres = EmbeddedPostgres(folder=data_folder, ephemeral=True)
    with serving(postgres.program(), log=data_folder.logs / "postgres.log"):
        shorten_logins(postgres.url)
        yield postgres.url


@pytest.fixture(scope="session")
def redis_server_url(data_folder: DataFolder) -> Iterator[str]:
    """A Redis-compatible server; tests use `redis_url`."""
    if url := os.environ.get("HEADRACE_TEST_REDIS_URL"):
        yield url
        return
    valkey = EmbeddedValkey(folder=data_folder)
    with serving(valkey.program(), log=data_folder.logs / "valkey.log"):
        yield valkey.url


@pytest.fixture(scope="session")
def databases(postgres_url: str) -> Iterator[Databases]:
    """A factory of fresh databases, with or without the schema."""
    databases = Databases(postgres_url)
    with ExitStack() as ending:
        if os.environ.get("HEADRACE_TEST_ROLES"):
            roles = ending.enter_context(service_roles(postgres_url, name="session"))
            ending.enter_context(databases.template())
            databases.grant(roles)
            use_roles(ending.enter_context(pytest.MonkeyPatch.context()), roles)
        else:
            ending.enter_context(databases.template())
        yield databases


@pytest.fixture(scope="session")
def redis_urls(redis_server_url: str) -> Iterator[str]:
    """An endless cycle of Redis databases for single tests.

    So a process that outlives its test does not write to the database of the next test.
    """
    return _cycle(redis_server_url, range(48))


@pytest.fixture(scope="session")
def module_redis_urls(redis_server_url: str) -> Iterator[str]:
    """An endless cycle of Redis databases for the services that a module shares."""
    return _cycle(redis_server_url, range(48, 64))


def _cycle(server_url: str, numbers: range) -> Iterator[str]:
    if "HEADRACE_TEST_REDIS_URL" in os.environ:
        return itertools.repeat(server_url)
    server = server_url.rpartition("/")[0]
    return itertools.cycle(f"{server}/{number}" for number in numbers)


@pytest.fixture
def redis_url(redis_urls: Iterator[str]) -> str:
    """An empty Redis database."""
    return empty_redis(redis_urls)


@pytest.fixture
def own_database_url(databases: Databases) -> Iterator[str]:
    """A database with the schema for a single test."""
    with databases.fresh() as url:
        yield url


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """The database of `settings`."""
    return own_database_url


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    """Settings with a fresh database, an empty Redis, free ports and short waits."""
    return short_settings(database_url, redis_url)


@pytest.fixture(scope="module")
def module_settings(databases: Databases, module_redis_urls: Iterator[str]) -> Iterator[Settings]:
    """Settings like `settings`, for services that a module shares."""
    with databases.fresh() as database_url:
        yield short_settings(database_url, empty_redis(module_redis_urls))


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """A connection pool for the database of `settings`."""
    database = Database(settings, application="test")
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[AsyncRedis]:
    """A client for the test's Redis."""
    client = AsyncRedis.from_url(settings.redis_url.get_secret_value(), socket_timeout=60)
    yield client
    await client.aclose()


@pytest.fixture
async def bus(settings: Settings, database: Database) -> AsyncIterator[WakeBus]:
    """A bus that publishes wake-ups. Without this fixture, a test publishes none."""
    bus = WakeBus(settings, database)
    await bus.start()
    yield bus
    await bus.stop()

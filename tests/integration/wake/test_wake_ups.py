"""Wake-ups: from whoever rings to whoever waits, on either way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from sqlalchemy import text

from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.settings import Settings
from headrace_core.store.migrate import migrate_async
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.notify import listen, notify
from headrace_core.wake import Listener, Topic, Waker
from headrace_core.wake.listener import DeafError
from support.databases import Databases
from support.listening import LONG, SHORT, channels_of, hears_redis, listening
from support.proxy import Proxy
from support.until import until
from support.valkey import OwnValkey, own_valkey


@pytest.fixture
def valkey() -> Iterator[OwnValkey]:
    """A Valkey of the test's own."""
    with own_valkey() as valkey:
        yield valkey


@pytest.fixture
def own(settings: Settings, valkey: OwnValkey) -> Settings:
    """Settings with that Valkey."""
    return settings.model_copy(update={"redis_url": SecretStr(valkey.url), "redis_timeout": 1.0})


@asynccontextmanager
async def ringing(settings: Settings, database: Database) -> AsyncIterator[Waker]:
    waker = Waker(settings, database)
    await waker.start()
    try:
        yield waker
    finally:
        await waker.stop()


async def test_a_ring_ends_a_wait(settings: Settings, database: Database) -> None:
    async with AsyncExitStack() as stack:
        waker = await stack.enter_async_context(ringing(settings, database))
        one = await stack.enter_async_context(listening(settings, database, Topic.JOBS))
        other = await stack.enter_async_context(listening(settings, database, Topic.JOBS))
        waker.ring(Topic.JOBS)
        # Everybody who listens hears it, and once.
        for listener in (one, other):
            assert await listener.wait(LONG)
            assert not await listener.wait(SHORT)


async def test_a_wait_hears_what_was_rung_before_it(settings: Settings, database: Database) -> None:
    async with AsyncExitStack() as stack:
        waker = await stack.enter_async_context(ringing(settings, database))
        early = await stack.enter_async_context(listening(settings, database, Topic.JOBS))
        witness = await stack.enter_async_context(listening(settings, database, Topic.JOBS))
        waker.ring(Topic.JOBS)
        assert await witness.wait(LONG)
        assert await early.wait(LONG)


async def test_other_topics_are_not_heard(settings: Settings, database: Database) -> None:
    async with AsyncExitStack() as stack:
        waker = await stack.enter_async_context(ringing(settings, database))
        jobs = await stack.enter_async_context(listening(settings, database, Topic.JOBS))
        both = await stack.enter_async_context(
            listening(settings, database, Topic.EVENTS, Topic.CANCELS)
        )
        waker.ring(Topic.CANCELS)
        assert await both.wait(LONG)
        waker.ring(Topic.EVENTS)
        assert await both.wait(LONG)
        assert not await jobs.wait(SHORT)


async def test_a_wait_without_a_ring_ends_in_its_time(
    settings: Settings, database: Database
) -> None:
    async with listening(settings, database, Topic.JOBS) as listener:
        async with asyncio.timeout(LONG):
            assert not await listener.wait(SHORT)


async def test_many_rings_go_together(settings: Settings, database: Database) -> None:
    client: Redis = Redis.from_url(settings.redis_url.get_secret_value())
    async with ringing(settings, database) as waker, client.pubsub() as heard:
        jobs, events = await channels_of(database, Topic.JOBS, Topic.EVENTS)
        await heard.subscribe(jobs, events)
        for _ in range(2):
            await heard.get_message(timeout=LONG)
        for _ in range(1000):
            waker.ring(Topic.JOBS, Topic.EVENTS)
        messages = []
        while message := await heard.get_message(timeout=SHORT):
            messages.append(message["channel"].decode())
    assert sorted(messages) == [events, jobs]
    await client.aclose()


async def test_what_was_rung_before_the_stop_is_heard(
    settings: Settings, database: Database
) -> None:
    async with listening(settings, database, Topic.JOBS) as listener:
        async with ringing(settings, database) as waker:
            waker.ring(Topic.JOBS)
        assert await listener.wait(LONG)


@pytest.fixture
def other_url(databases: Databases) -> Iterator[str]:
    """A database of another installation."""
    with databases.fresh() as url:
        yield url


async def test_installations_with_one_redis_do_not_wake_each_other(
    settings: Settings, database: Database, other_url: str
) -> None:
    neighbor = settings.model_copy(update={"database_url": SecretStr(other_url)})
    # Copies of one template have the same id; a migration of its own gives another.
    other = Database(neighbor, application="test")
    async with other.statement() as connection:
        await connection.execute(text("UPDATE installation SET id = DEFAULT"))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(other.close)
        ours = await stack.enter_async_context(listening(settings, database, *Topic))
        theirs = await stack.enter_async_context(listening(neighbor, other, *Topic))
        waker = await stack.enter_async_context(ringing(settings, database))
        waker.ring(Topic.JOBS, Topic.EVENTS)
        assert await ours.wait(LONG)
        assert not await theirs.wait(SHORT)


async def test_schemas_of_one_database_have_channels_of_their_own(
    settings: Settings, other_url: str
) -> None:
    ours = settings.model_copy(update={"database_url": SecretStr(other_url)})
    theirs = ours.model_copy(update={"database_schema": "second"})
    await migrate_async(theirs)
    channels = []
    for one in (ours, theirs):
        database = Database(one, application="test")
        channels += await channels_of(database, *Topic)
        await database.close()
    assert len(set(channels)) == 2 * len(Topic)
    # PostgreSQL's limit for the name of a channel.
    assert max(map(len, channels)) <= 63


# Without Redis.


async def test_without_redis_a_ring_goes_through_postgresql(
    own: Settings, valkey: OwnValkey, database: Database
) -> None:
    async with AsyncExitStack() as stack:
        waker = await stack.enter_async_context(ringing(own, database))
        listener = await stack.enter_async_context(
            listening(own, database, Topic.JOBS, Topic.EVENTS)
        )
        valkey.kill()
        for topic in (Topic.JOBS, Topic.EVENTS, Topic.JOBS):
            waker.ring(topic)
            assert await listener.wait(LONG)
            assert not await listener.wait(SHORT)
        waker.ring(Topic.CANCELS)
        assert not await listener.wait(SHORT)


async def test_when_redis_is_back_it_is_heard_again(
    own: Settings, valkey: OwnValkey, database: Database
) -> None:
    async with listening(own, database, Topic.JOBS) as listener:
        valkey.kill()
        await valkey.give_back()
        client: Redis = Redis.from_url(valkey.url)
        [jobs] = await channels_of(database, Topic.JOBS)
        await until(lambda: hears_redis(client, [jobs]))
        # What was missed meanwhile is looked for: the way back counts as a wake-up.
        assert await listener.wait(LONG)
        await client.publish(jobs, b"")
        assert await listener.wait(LONG)
        await client.aclose()


async def test_a_listener_that_lost_postgresql_hears_it_again(
    settings: Settings, database: Database
) -> None:
    async with listening(settings, database, Topic.JOBS) as listener:
        async with database.transaction() as connection:
            ended = await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
                )
            )
            assert ended.rowcount == 1
        assert await listener.wait(LONG)
        async with database.transaction() as connection:
            await notify(connection, await channels_of(database, Topic.JOBS))
        assert await listener.wait(LONG)


async def test_who_hears_on_neither_way_for_a_while_is_deaf_until_it_hears_again(
    own: Settings, valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_core.wake.listener._DEAF", 1.0)
    link = Proxy(own.postgresql_url)
    await link.start()
    behind = own.model_copy(update={"database_url": SecretStr(link.url)})
    database = Database(behind, application="test")

    async with listening(behind, database, Topic.JOBS) as listener:
        await listener.ping()
        await asyncio.to_thread(valkey.kill)
        # One way is enough, for however long.
        await asyncio.sleep(1.5)
        await listener.ping()
        await link.cut()
        # A blip is none yet.
        await listener.ping()
        await until(lambda: _is_deaf(listener))
        await link.start()
        await until(lambda: _is_deaf(listener, not_any_more=True))
    await link.cut()
    await database.close()


async def _is_deaf(listener: Listener, *, not_any_more: bool = False) -> bool:
    try:
        await listener.ping()
    except DeafError:
        return not not_any_more
    return not_any_more


async def test_a_notification_goes_out_with_its_transaction(
    settings: Settings, database: Database
) -> None:
    async with listening(settings, database, Topic.JOBS) as listener:
        async with database.transaction() as connection:
            await notify(connection, await channels_of(database, Topic.JOBS))
            assert not await listener.wait(SHORT)
        assert await listener.wait(LONG)


@pytest.mark.parametrize("gone", ["redis", "postgresql", "both"])
async def test_a_ring_never_fails_and_never_blocks(
    settings: Settings, database: Database, gone: str
) -> None:
    changes: dict[str, SecretStr] = {}
    if gone != "postgresql":
        changes["redis_url"] = SecretStr("redis://127.0.0.1:1/0")
    if gone != "redis":
        changes["database_url"] = SecretStr("postgresql://headrace@127.0.0.1:1/headrace")
    without = settings.model_copy(update=changes)
    cut_off = Database(without, application="test")
    flushed: list[None] = []

    def counted(flush: Callable[[], object]) -> Callable[[], object]:
        async def count() -> None:
            await flush()  # type: ignore[misc]
            flushed.append(None)

        return count

    async with asyncio.timeout(LONG), ringing(without, cut_off) as waker:
        waker._flush = counted(waker._flush)  # type: ignore[method-assign, assignment]
        for number in range(3):
            waker.ring(*Topic)
            await until(lambda number=number: len(flushed) > number)
    await cut_off.close()


async def test_a_link_that_dies_at_the_first_word_is_found_as_fast_as_later(
    settings: Settings,
) -> None:
    link = Proxy(settings.postgresql_url, marks=(b"LISTEN ",))
    await link.start()
    link.hold(sent=b"LISTEN ")
    # A statement may take far longer than this test.
    patient = settings.model_copy(
        update={"database_url": SecretStr(link.url), "database_timeout": 300.0}
    )
    database = Database(patient, application="test")
    heard: list[str] = []
    async with asyncio.timeout(LONG):
        with pytest.raises(Unavailable):
            await listen(database, [Topic.JOBS], heard=heard.extend, probe=0.2)
    assert heard == []
    await database.close()
    await link.cut()


async def test_unforeseen_error_of_redis_leaves_notify(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(settings, database, Topic.JOBS) as listener:

        async def broken(_: object) -> None:
            raise TypeError("an unforeseen fault")

        monkeypatch.setattr(AbstractConnection, "connect", broken)
        async with ringing(settings, database) as waker:
            with pytest.raises(TypeError):
                await waker.ping()
            waker.ring(Topic.JOBS)
            assert await listener.wait(LONG)

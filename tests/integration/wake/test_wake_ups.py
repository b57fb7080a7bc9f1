"""Wake-ups: from a publisher to subscribers, through Redis and through PostgreSQL."""

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
from headrace_core.wake import Timing, Topic, WakeBus, WakeUpsLost
from support.databases import Databases
from support.listening import (
    QUIET_PERIOD_S,
    WAKE_UP_TIMEOUT_S,
    channels_of,
    connected,
    listening,
    redis_has_subscriber,
)
from support.proxy import Proxy
from support.until import until
from support.valkey import OwnValkey, own_valkey


@pytest.fixture
def valkey() -> Iterator[OwnValkey]:
    """A Valkey for one test."""
    with own_valkey() as valkey:
        yield valkey


@pytest.fixture
def own_redis_settings(settings: Settings, valkey: OwnValkey) -> Settings:
    """Settings that use this Valkey."""
    return settings.model_copy(update={"redis_url": SecretStr(valkey.url), "redis_timeout": 1.0})


@asynccontextmanager
async def publishing(settings: Settings, database: Database) -> AsyncIterator[WakeBus]:
    bus = WakeBus(settings, database)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop()


async def test_wake_up_reaches_each_subscriber_once(settings: Settings, database: Database) -> None:
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(publishing(settings, database))
        one = await stack.enter_async_context(listening(settings, database, Topic.JOBS))
        other = await stack.enter_async_context(listening(settings, database, Topic.JOBS))
        bus.publish(Topic.JOBS)
        # Each subscriber receives the wake-up once.
        for wake in (one, other):
            assert await wake.wait(WAKE_UP_TIMEOUT_S)
            assert not await wake.wait(QUIET_PERIOD_S)


async def test_wait_returns_earlier_wake_ups(settings: Settings, database: Database) -> None:
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(publishing(settings, database))
        early = await stack.enter_async_context(listening(settings, database, Topic.JOBS))
        reference = await stack.enter_async_context(listening(settings, database, Topic.JOBS))
        bus.publish(Topic.JOBS)
        assert await reference.wait(WAKE_UP_TIMEOUT_S)
        assert await early.wait(WAKE_UP_TIMEOUT_S)


async def test_subscribers_of_a_bus_share_one_session(
    settings: Settings, database: Database
) -> None:
    bus = WakeBus(settings, database, Topic.JOBS, Topic.SLOTS)
    jobs, slots = bus.subscribe(Topic.JOBS), bus.subscribe(Topic.SLOTS)
    async with connected(bus, settings, database, Topic.JOBS, Topic.SLOTS) as both:
        for one in (jobs, slots):
            one.clear()
        bus.publish(Topic.JOBS)
        assert (
            await jobs.wait(WAKE_UP_TIMEOUT_S) == await both.wait(WAKE_UP_TIMEOUT_S) == {Topic.JOBS}
        )
        bus.publish(Topic.SLOTS)
        assert (
            await slots.wait(WAKE_UP_TIMEOUT_S)
            == await both.wait(WAKE_UP_TIMEOUT_S)
            == {Topic.SLOTS}
        )
        assert not await jobs.wait(QUIET_PERIOD_S)
        async with database.transaction() as connection:
            sessions = await connection.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND application_name LIKE '%-listen'"
                )
            )
        assert sessions == 1


async def test_subscriber_may_reject_a_topic_temporarily(
    settings: Settings, database: Database
) -> None:
    accepted_topics = {Topic.JOBS}
    bus = WakeBus(settings, database, Topic.JOBS, Topic.SLOTS)
    async with connected(bus, settings, database, Topic.JOBS, Topic.SLOTS) as reference:
        selective = bus.subscribe(Topic.JOBS, Topic.SLOTS, accepts=accepted_topics.__contains__)
        for topic, accepted in ((Topic.SLOTS, False), (Topic.JOBS, True), (Topic.SLOTS, True)):
            if accepted:
                accepted_topics.add(topic)
            bus.publish(topic)
            assert await reference.wait(WAKE_UP_TIMEOUT_S) == {topic}
            assert bool(await selective.wait(0)) is accepted


async def test_unsubscribed_subscriber_receives_nothing(
    settings: Settings, database: Database
) -> None:
    bus = WakeBus(settings, database, Topic.JOBS)
    async with connected(bus, settings, database, Topic.JOBS) as reference:
        former = bus.subscribe(Topic.JOBS)
        bus.unsubscribe(former)
        bus.publish(Topic.JOBS)
        assert await reference.wait(WAKE_UP_TIMEOUT_S)
        assert not await former.wait(0)


async def test_bus_rejects_subscriptions_to_other_topics(
    settings: Settings, database: Database
) -> None:
    with pytest.raises(KeyError):
        WakeBus(settings, database, Topic.JOBS).subscribe(Topic.EVENTS)


async def test_subscriber_receives_only_its_topics(settings: Settings, database: Database) -> None:
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(publishing(settings, database))
        jobs = await stack.enter_async_context(listening(settings, database, Topic.JOBS))
        both = await stack.enter_async_context(
            listening(settings, database, Topic.EVENTS, Topic.CANCELS)
        )
        bus.publish(Topic.CANCELS)
        assert await both.wait(WAKE_UP_TIMEOUT_S)
        bus.publish(Topic.EVENTS)
        assert await both.wait(WAKE_UP_TIMEOUT_S)
        assert not await jobs.wait(QUIET_PERIOD_S)


async def test_wait_without_wake_up_times_out(settings: Settings, database: Database) -> None:
    async with listening(settings, database, Topic.JOBS) as wake:
        async with asyncio.timeout(WAKE_UP_TIMEOUT_S):
            assert not await wake.wait(QUIET_PERIOD_S)


async def test_many_publications_share_one_message(settings: Settings, database: Database) -> None:
    client: Redis = Redis.from_url(settings.redis_url.get_secret_value())
    async with publishing(settings, database) as bus, client.pubsub() as received:
        jobs, events = await channels_of(database, Topic.JOBS, Topic.EVENTS)
        await received.subscribe(jobs, events)
        for _ in range(2):
            await received.get_message(timeout=WAKE_UP_TIMEOUT_S)
        for _ in range(1000):
            bus.publish(Topic.JOBS, Topic.EVENTS)
        messages = [await received.get_message(timeout=WAKE_UP_TIMEOUT_S) for _ in range(2)]
        assert await received.get_message(timeout=QUIET_PERIOD_S) is None
    assert sorted(message["channel"].decode() for message in messages) == [events, jobs]
    await client.aclose()


async def test_stop_publishes_pending_wake_ups(settings: Settings, database: Database) -> None:
    async with listening(settings, database, Topic.JOBS) as wake:
        async with publishing(settings, database) as bus:
            bus.publish(Topic.JOBS)
        assert await wake.wait(WAKE_UP_TIMEOUT_S)


@pytest.fixture
def other_url(databases: Databases) -> Iterator[str]:
    """The URL of another installation's database."""
    with databases.fresh() as url:
        yield url


async def test_installations_on_one_redis_have_separate_wake_ups(
    settings: Settings, database: Database, other_url: str
) -> None:
    other_settings = settings.model_copy(update={"database_url": SecretStr(other_url)})
    # Copies of a template share its installation id, so this database is migrated separately.
    other = Database(other_settings, application="test")
    async with other.statement() as connection:
        await connection.execute(text("UPDATE installation SET id = DEFAULT"))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(other.close)
        own_settings = await stack.enter_async_context(listening(settings, database, *Topic))
        other_schema = await stack.enter_async_context(listening(other_settings, other, *Topic))
        bus = await stack.enter_async_context(publishing(settings, database))
        bus.publish(Topic.JOBS, Topic.EVENTS)
        assert await own_settings.wait(WAKE_UP_TIMEOUT_S)
        assert not await other_schema.wait(QUIET_PERIOD_S)


async def test_schemas_of_one_database_have_separate_channels(
    settings: Settings, other_url: str
) -> None:
    own_settings = settings.model_copy(update={"database_url": SecretStr(other_url)})
    other_schema = own_settings.model_copy(update={"database_schema": "second"})
    await migrate_async(other_schema)
    channels = []
    for one in (own_settings, other_schema):
        database = Database(one, application="test")
        channels += await channels_of(database, *Topic)
        await database.close()
    assert len(set(channels)) == 2 * len(Topic)
    # PostgreSQL's limit for a channel name.
    assert max(map(len, channels)) <= 63


# Without Redis.


async def test_wake_ups_without_redis_arrive_through_postgresql(
    own_redis_settings: Settings, valkey: OwnValkey, database: Database
) -> None:
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(publishing(own_redis_settings, database))
        wake = await stack.enter_async_context(
            listening(own_redis_settings, database, Topic.JOBS, Topic.EVENTS)
        )
        valkey.kill()
        for topic in (Topic.JOBS, Topic.EVENTS, Topic.JOBS):
            bus.publish(topic)
            assert await wake.wait(WAKE_UP_TIMEOUT_S)
            assert not await wake.wait(QUIET_PERIOD_S)
        bus.publish(Topic.CANCELS)
        assert not await wake.wait(QUIET_PERIOD_S)


async def test_restored_redis_delivers_wake_ups_again(
    own_redis_settings: Settings, valkey: OwnValkey, database: Database
) -> None:
    async with listening(own_redis_settings, database, Topic.JOBS) as wake:
        valkey.kill()
        await valkey.restart()
        client: Redis = Redis.from_url(valkey.url)
        [jobs] = await channels_of(database, Topic.JOBS)
        await until(lambda: redis_has_subscriber(client, [jobs]))
        # The reconnection counts as a wake-up, because wake-ups may have been lost before.
        assert await wake.wait(WAKE_UP_TIMEOUT_S)
        await client.publish(jobs, b"")
        assert await wake.wait(WAKE_UP_TIMEOUT_S)
        await client.aclose()


async def test_lost_listen_session_is_restored(settings: Settings, database: Database) -> None:
    async with listening(settings, database, Topic.JOBS) as wake:
        async with database.transaction() as connection:
            ended = await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
                )
            )
            assert ended.rowcount == 1
        assert await wake.wait(WAKE_UP_TIMEOUT_S)
        async with database.transaction() as connection:
            await notify(connection, await channels_of(database, Topic.JOBS))
        assert await wake.wait(WAKE_UP_TIMEOUT_S)


async def test_ping_fails_without_any_connection(
    own_redis_settings: Settings, valkey: OwnValkey
) -> None:
    link = Proxy(own_redis_settings.postgresql_url)
    await link.start()
    linked_settings = own_redis_settings.model_copy(update={"database_url": SecretStr(link.url)})
    database = Database(linked_settings, application="test")
    bus = WakeBus(linked_settings, database, Topic.JOBS, timing=Timing(max_gap=1.0))
    async with connected(bus, linked_settings, database, Topic.JOBS):
        await bus.ping()
        await asyncio.to_thread(valkey.kill)
        # The ping succeeds while one connection remains.
        await asyncio.sleep(1.5)
        await bus.ping()
        await link.cut()
        # A short interruption does not fail the ping.
        await bus.ping()
        await until(lambda: _ping_fails(bus))
        await link.start()
        await until(lambda: _ping_fails(bus, negate=True))
    await link.cut()
    await database.close()


async def _ping_fails(bus: WakeBus, *, negate: bool = False) -> bool:
    try:
        await bus.ping()
    except WakeUpsLost:
        return not negate
    return negate


async def test_notification_is_sent_at_the_commit(settings: Settings, database: Database) -> None:
    async with listening(settings, database, Topic.JOBS) as wake:
        async with database.transaction() as connection:
            await notify(connection, await channels_of(database, Topic.JOBS))
            assert not await wake.wait(QUIET_PERIOD_S)
        assert await wake.wait(WAKE_UP_TIMEOUT_S)


@pytest.mark.parametrize("outage", ["redis", "postgresql", "both"])
async def test_publish_neither_fails_nor_blocks(
    settings: Settings, database: Database, outage: str
) -> None:
    changes: dict[str, SecretStr] = {}
    if outage != "postgresql":
        changes["redis_url"] = SecretStr("redis://127.0.0.1:1/0")
    if outage != "redis":
        changes["database_url"] = SecretStr("postgresql://headrace@127.0.0.1:1/headrace")
    outage_settings = settings.model_copy(update=changes)
    cut_off = Database(outage_settings, application="test")
    flushed: list[None] = []

    def count_flushes(flush: Callable[[], object]) -> Callable[[], object]:
        async def count() -> None:
            await flush()  # type: ignore[misc]
            flushed.append(None)

        return count

    async with asyncio.timeout(WAKE_UP_TIMEOUT_S), publishing(outage_settings, cut_off) as bus:
        publisher = bus._publisher
        publisher._flush = count_flushes(publisher._flush)  # type: ignore[method-assign, assignment]
        for count in range(3):
            bus.publish(*Topic)
            await until(lambda count=count: len(flushed) > count)
    await cut_off.close()


async def test_link_lost_during_listen_is_detected_early(
    settings: Settings,
) -> None:
    link = Proxy(settings.postgresql_url, marks=(b"LISTEN ",))
    await link.start()
    link.hold(sent=b"LISTEN ")
    # The statement timeout is far longer than this test.
    slow_to_time_out = settings.model_copy(
        update={"database_url": SecretStr(link.url), "database_timeout": 300.0}
    )
    database = Database(slow_to_time_out, application="test")
    received: list[str] = []
    async with asyncio.timeout(WAKE_UP_TIMEOUT_S):
        with pytest.raises(Unavailable):
            await listen(database, [Topic.JOBS], on_notify=received.extend, probe=0.2)
    assert received == []
    await database.close()
    await link.cut()


async def test_unexpected_redis_error_falls_back_to_notify(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(settings, database, Topic.JOBS) as wake:

        async def broken(_: object) -> None:
            raise TypeError("an unexpected fault")

        monkeypatch.setattr(AbstractConnection, "connect", broken)
        async with publishing(settings, database) as bus:
            with pytest.raises(TypeError):
                await bus.ping_redis()
            bus.publish(Topic.JOBS)
            assert await wake.wait(WAKE_UP_TIMEOUT_S)

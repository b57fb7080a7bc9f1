"""Subscriptions: one receiving stream, standbys, and the resending of unacknowledged events."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text

from headrace_core.domain.errors import (
    CursorExpired,
    HeadraceError,
    ShuttingDown,
    SubscriptionNotFound,
    SubscriptionTaken,
    Unavailable,
)
from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.runtime.settings import Settings
from headrace_core.store.event_log import place_of
from headrace_core.store.sql.connection import Driver, Rows
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.streams import Mark, Watch
from headrace_gateway.streams.subscription import SubscriptionStream
from headrace_gateway.streams.timing import Timing
from support.jobs import submit, submit_many
from support.proxy import Proxy
from support.subscribing import (
    NAME,
    ack,
    create,
    delete,
    read_subscription,
    subscribe,
    until_receiving,
    until_standby,
)
from support.until import until
from support.watching import EventId, Reader, event_ids, subscriptions, watching


@pytest.fixture
async def other_gateway(settings: Settings, timing: Timing) -> AsyncIterator[Watch]:
    """The streams of another gateway."""
    async with watching(settings, timing) as watch:
        yield watch
        assert subscriptions(watch) == (0, 0, 0)


# The leases are short enough to lapse during a test.
SHORT_LEASES = Timing(lease=2.0, renew=0.5)
short_leases = pytest.mark.parametrize("timing", [SHORT_LEASES], ids=["short"])
# The lease loop runs only after a wake-up.
only_wake_ups = pytest.mark.parametrize(
    "timing", [Timing(lease_interval=(60.0, 60.0))], ids=["wake-ups"]
)


async def stop_without_release(watch: Watch) -> None:
    """Stop a gateway's lease loop without a release, as if the gateway were killed."""
    await watch._leases_runner.stop()
    watch._leases._all_released.set()


# Events and marks.


async def test_only_unacknowledged_events_are_resent(watch: Watch, database: Database):
    await create(database, queues=frozenset(["a"]))
    for _ in range(3):
        await submit(database, queue="a")
        await submit(database, queue="b")
    first = subscribe(watch, "one")
    await first.has(3)
    await first.until(lambda reader: Mark.CAUGHT_UP in {page.mark for page in reader.pages})
    await submit(database, queue="a")
    await first.has(4)
    # Events settle one after another, so a page may contain only some of them.
    await ack(database, watch, first.pages[-1].cursor)
    await submit(database, queue="a")
    await first.has(5)
    await first.cancel()
    repeated = subscribe(watch, "one")
    await repeated.has(1)
    await until_receiving(repeated)
    assert repeated.event_ids == first.event_ids[4:]
    await repeated.cancel()


async def test_cursor_of_a_mark_acknowledges_other_events(watch: Watch, database: Database):
    await create(database, "all")
    await create(database, queues=frozenset(["unused"]))
    all_events = subscribe(watch, name="all")
    await submit_many(database, 3)
    await all_events.has(3)
    reader = subscribe(watch)
    await until_receiving(reader)
    assert reader.events == []
    assert (await read_subscription(database)).lag is not None
    await ack(database, watch, reader.pages[-1].cursor)
    assert (await read_subscription(database)).lag is None
    await reader.cancel()
    await all_events.cancel()


async def test_consumers_without_a_name_are_distinct(watch: Watch, database: Database):
    await create(database)
    one = subscribe(watch)
    await until_receiving(one)
    another = subscribe(watch)
    await until_standby(another)
    await one.cancel()
    await until_receiving(another)
    assert (await read_subscription(database)).epoch == 2
    await another.cancel()


async def test_unknown_subscription_is_not_found(watch: Watch, database: Database):
    reader = subscribe(watch)
    with pytest.raises(SubscriptionNotFound):
        await reader.end()


# Receivers and standbys.


@only_wake_ups
async def test_standby_at_another_gateway_takes_over_at_once(
    watch: Watch, other_gateway: Watch, database: Database
):
    await create(database)
    one = subscribe(watch, "one")
    await until_receiving(one)
    second = subscribe(other_gateway, "second")
    await until_standby(second)
    await submit_many(database, 3)
    await one.has(3)
    await ack(database, watch, one.pages[-1].cursor)
    await submit_many(database, 2)
    await one.has(5)
    assert len(second.pages) == 1
    await one.cancel()
    await second.has(2, within=9)
    assert second.event_ids == one.event_ids[3:]
    with pytest.raises(SubscriptionTaken):
        await ack(database, watch, one.pages[-1].cursor)
    await ack(database, watch, second.pages[-1].cursor)
    await second.cancel()


async def test_standby_takes_over_without_a_wake_up(
    watch: Watch, other_gateway: Watch, database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(WakeBus, "publish", lambda *_: None)
    await create(database)
    one = subscribe(watch, "one")
    await until_receiving(one)
    second = subscribe(other_gateway, "second")
    await until_standby(second)
    await one.cancel()
    await until_receiving(second)
    await second.cancel()


async def test_standbys_take_over_in_order(watch: Watch, database: Database):
    await create(database)
    readers = []
    for number in range(4):
        readers.append(subscribe(watch, f"c{number}"))
        await readers[-1].until(lambda reader: bool(reader.pages))
    for number, reader in enumerate(readers):
        await until_receiving(reader)
        assert all(len(later.pages) == 1 for later in readers[number + 1 :])
        await reader.cancel()
    assert (await read_subscription(database)).epoch == 4


@only_wake_ups
async def test_newer_watch_of_a_consumer_replaces_the_older_one(
    watch: Watch, other_gateway: Watch, database: Database
):
    await create(database)
    await submit_many(database, 2)
    older = subscribe(watch, "one")
    await older.has(2)
    newer = subscribe(other_gateway, "one")
    await newer.has(2)
    with pytest.raises(SubscriptionTaken):
        await older.end()
    # Cursors of the older watch can still be acknowledged.
    await ack(database, watch, older.pages[-1].cursor)
    resubscribed = subscribe(watch, "one")
    await until_receiving(resubscribed)
    assert resubscribed.events == []
    await resubscribed.cancel()
    with pytest.raises(SubscriptionTaken):
        await newer.end()


async def test_newer_standby_of_a_consumer_replaces_the_older_one(
    watch: Watch, other_gateway: Watch, database: Database
):
    await create(database)
    holder = subscribe(watch, "holder")
    await until_receiving(holder)
    older = subscribe(watch, "one")
    await until_standby(older)
    newer = subscribe(other_gateway, "one")
    await until_standby(newer)
    await holder.cancel()
    await until_receiving(newer)
    with pytest.raises(SubscriptionTaken):
        await older.end()
    assert (await read_subscription(database)).consumer == "one"
    assert not newer.task.done()
    await newer.cancel()


async def test_standby_sends_marks(
    watch: Watch, database: Database, monkeypatch: pytest.MonkeyPatch
):
    await create(database)
    holder = subscribe(watch, "holder")
    await until_receiving(holder)
    waiting = Reader(
        SubscriptionStream(
            tenant=DEFAULT_TENANT,
            name=NAME,
            consumer="one",
            leases=watch._leases,
            open_stream=lambda _: pytest.fail("a standby must not follow the log"),
            gauges=watch.gauges,
            idle=0.1,
        ).run()
    )
    await waiting.until(lambda reader: len(reader.pages) > 5)
    assert {page.mark for page in waiting.pages} == {Mark.STANDBY}
    await waiting.cancel()
    await holder.cancel()


@short_leases
async def test_killed_gateway_is_replaced_when_its_lease_lapses(
    settings: Settings, other_gateway: Watch, database: Database
):
    await create(database)
    await submit(database)
    async with watching(settings, SHORT_LEASES) as killed:
        holder = subscribe(killed, "one")
        await holder.has(1)
        second = subscribe(other_gateway, "second")
        await until_standby(second)
        await stop_without_release(killed)
        await second.has(1)
        # The holder knows that its lease has lapsed, so it sends no more events.
        await submit(database)
        await second.has(2)
        with pytest.raises(Unavailable):
            await holder.end()
        assert len(holder.events) == 1
    assert (await read_subscription(database)).consumer == "second"
    await second.cancel()


@short_leases
async def test_lease_is_renewed_while_the_watch_is_open(
    watch: Watch, other_gateway: Watch, database: Database
):
    await create(database)
    holder = subscribe(watch, "one")
    await until_receiving(holder)
    second = subscribe(other_gateway, "second")
    await until_standby(second)

    async def renewed() -> int:
        async with database.transaction() as connection:
            return await connection.scalar(
                text("SELECT lease_expire_time > create_time + interval '5 s' FROM subscriptions")
            )

    await until(renewed)
    assert not holder.task.done()
    assert len(second.pages) == 1
    await holder.cancel()
    await until_receiving(second)
    await second.cancel()


# The end of watches.


@pytest.mark.parametrize("with_wake_up", [True, False])
async def test_watches_of_a_deleted_subscription_end(
    watch: Watch, other_gateway: Watch, database: Database, bus: WakeBus, with_wake_up: bool
):
    await create(database)
    holder = subscribe(watch, "one")
    await until_receiving(holder)
    second = subscribe(other_gateway, "second")
    await until_standby(second)
    await delete(database)
    if with_wake_up:
        bus.publish(Topic.SUBSCRIPTIONS)
    for reader in (holder, second):
        with pytest.raises(SubscriptionNotFound):
            await reader.end()


async def test_recreated_subscription_is_a_new_one(watch: Watch, database: Database):
    await create(database)
    holder = subscribe(watch, "one")
    await until_receiving(holder)
    await delete(database)
    await create(database)
    with pytest.raises(SubscriptionNotFound):
        await holder.end()
    resubscribed = subscribe(watch, "one")
    await until_receiving(resubscribed)
    await resubscribed.cancel()


async def test_shutdown_releases_subscriptions_at_once(
    settings: Settings, other_gateway: Watch, database: Database
):
    await create(database)
    async with watching(settings) as watch:
        # The reader of this stream is stalled, so the stream cannot end.
        stalled = watch.watch_subscription(DEFAULT_TENANT, NAME, "one")
        assert (await anext(stalled)).mark is Mark.CAUGHT_UP
        waiting = subscribe(watch, "waiting")
        await until_standby(waiting)
        second = subscribe(other_gateway, "second")
        await until_standby(second)
        await watch.stop()
        with pytest.raises(ShuttingDown):
            await waiting.end()
        await until_receiving(second)
        with pytest.raises(ShuttingDown):
            await anext(stalled)
        late = subscribe(watch, "late")
        with pytest.raises(ShuttingDown):
            await late.end()
    await second.cancel()


async def test_watch_cancelled_during_acquisition_is_released(
    watch: Watch, other_gateway: Watch, database: Database
):
    await create(database)
    async with database.transaction() as connection:
        await connection.execute(text("SELECT FROM subscriptions FOR UPDATE"))
        acquiring = subscribe(watch, "one")
        await until(lambda: [lease for lease in watch._leases._open if lease.is_acquiring])
        await acquiring.cancel()
    second = subscribe(other_gateway, "second")
    await until_receiving(second)
    await second.cancel()


async def test_cancelled_watches_leave_no_leases(watch: Watch, database: Database):
    await create(database)
    rng = random.Random(1)
    for _ in range(3):
        readers = [subscribe(watch, f"c{number}") for number in range(20)]
        await asyncio.sleep(rng.uniform(0, 0.02))
        for reader in readers:
            await reader.cancel()
    await until(lambda: not watch._leases._open and not watch._leases._closed)
    last = subscribe(watch, "last")
    await until_receiving(last)
    await last.cancel()


async def test_standbys_share_one_query_per_run(
    watch: Watch, database: Database, monkeypatch: pytest.MonkeyPatch
):
    await create(database)
    holder = subscribe(watch, "holder")
    await until_receiving(holder)
    readers = [subscribe(watch) for _ in range(200)]
    for reader in readers:
        await until_standby(reader)
    statements: Counter[str] = Counter()
    reads = 0

    run = Driver.run

    async def count(driver: Driver, sql: str, arguments: Sequence[Any]) -> Rows:
        statements[sql.split(maxsplit=1)[0]] += "subscriptions" in sql
        return await run(driver, sql, arguments)

    read = watch._leases._read_holders

    async def read_and_count() -> float:
        nonlocal reads
        reads += 1
        return await read()

    monkeypatch.setattr(watch._leases, "_read_holders", read_and_count)
    with monkeypatch.context() as counting:
        counting.setattr(Driver, "run", count)
        await until(lambda: reads >= 3)
    assert statements["SELECT"] <= reads
    assert statements["UPDATE"] <= 1
    for reader in [holder, *readers]:
        await reader.cancel()


async def test_short_watches_do_not_affect_the_receiver(watch: Watch, database: Database):
    await create(database)
    holder = subscribe(watch, "holder")
    await until_receiving(holder)
    for _ in range(4):
        readers = [subscribe(watch) for _ in range(250)]
        await readers[-1].until(lambda reader: bool(reader.pages))
        await asyncio.gather(*(reader.cancel() for reader in readers))
    await until(lambda: list(watch._leases._open) and not watch._leases._closed)
    assert not holder.task.done()
    assert (await read_subscription(database)).epoch == 1
    await holder.cancel()


# Pruning.


async def test_subscription_continues_after_pruned_events(watch: Watch, database: Database):
    await create(database)
    for _ in range(4):
        await submit(database)
    all_events = subscribe(watch, "one")
    await all_events.has(4)
    await all_events.cancel()
    places = [place_of(event) for event in all_events.events]
    async with database.transaction() as connection:
        await connection.execute(
            text("DELETE FROM job_events WHERE position <= :position"), {"position": places[1][1]}
        )
        await connection.execute(
            text(
                "INSERT INTO event_log (tenant, start_xid, start_position) "
                "VALUES ('default', CAST(CAST(:xid AS text) AS xid8), :position)"
            ),
            {"xid": str(places[1][0]), "position": places[1][1]},
        )
    reader = subscribe(watch, "one")
    with pytest.raises(CursorExpired) as excinfo:
        await reader.end()
    assert reader.events == []
    assert await ack(database, watch, excinfo.value.oldest_cursor)
    resubscribed = subscribe(watch, "one")
    await resubscribed.has(2)
    assert resubscribed.event_ids == all_events.event_ids[2:]
    await resubscribed.cancel()


# Faults.


@short_leases
async def test_holder_without_postgresql_is_replaced(
    settings: Settings, other_gateway: Watch, database: Database
):
    await create(database)
    proxy = Proxy(settings.database_url.get_secret_value())
    await proxy.start()
    through = Settings.model_validate({**settings.model_dump(), "database_url": proxy.url})
    async with watching(through, SHORT_LEASES) as watch:
        holder = subscribe(watch, "one")
        await until_receiving(holder)
        second = subscribe(other_gateway, "second")
        await until_standby(second)
        await proxy.cut()
        with pytest.raises(Unavailable):
            await holder.end()
        await until_receiving(second)
        await proxy.start()
        resumed = subscribe(watch, "one")

        async def is_standby() -> bool:
            nonlocal resumed
            if resumed.task.done():
                resumed = subscribe(watch, "one")
            return bool(resumed.pages)

        await until(is_standby)
        await until_standby(resumed)
        await second.cancel()
        await until_receiving(resumed)
        await resumed.cancel()
    await proxy.cut()


@short_leases
async def test_stalled_reader_releases_lapsed_subscription(
    settings: Settings, other_gateway: Watch, database: Database
):
    await create(database)
    proxy = Proxy(settings.database_url.get_secret_value())
    await proxy.start()
    through = Settings.model_validate({**settings.model_dump(), "database_url": proxy.url})
    async with watching(through, SHORT_LEASES) as watch:
        stalled = watch.watch_subscription(DEFAULT_TENANT, NAME, "one")
        assert (await anext(stalled)).mark is Mark.CAUGHT_UP
        await proxy.cut()
        await until(lambda: not watch._leases._open)
        await proxy.start()
        await until(lambda: not watch._leases._closed)
        second = subscribe(other_gateway, "second")
        await until_receiving(second)
        with pytest.raises(Unavailable):
            await anext(stalled)
        await second.cancel()
    await proxy.cut()


async def test_holder_survives_a_short_postgresql_outage(settings: Settings, database: Database):
    await create(database)
    proxy = Proxy(settings.database_url.get_secret_value())
    await proxy.start()
    through = Settings.model_validate({**settings.model_dump(), "database_url": proxy.url})
    async with watching(through, Timing(renew=0.3)) as watch:
        holder = subscribe(watch, "one")
        await until_receiving(holder)
        (lease,) = watch._leases._open
        await proxy.cut()
        until_before = lease.until
        await submit(database)
        await asyncio.sleep(1)
        await proxy.start()
        await holder.has(1)
        await until(lambda: lease.until > until_before)
        assert (await read_subscription(database)).consumer == "one"
        await holder.cancel()
    await proxy.cut()


# Concurrent restarts, cuts and takeovers.


@asynccontextmanager
async def gateway(settings: Settings, rng: random.Random) -> AsyncIterator[Watch]:
    """Run a gateway; at the end, stop it cleanly or as if it were killed."""
    async with watching(settings, SHORT_LEASES) as watch:
        yield watch
        if rng.random() < 0.5:
            await stop_without_release(watch)


class Gateways:
    """Two gateways that a test restarts."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self._settings = settings
        self._rng = rng
        self._stacks = [AsyncExitStack(), AsyncExitStack()]
        self.watches: list[Watch] = []
        self.restarts = 0

    async def start(self) -> None:
        for stack in self._stacks:
            watch = await stack.enter_async_context(gateway(self._settings, self._rng))
            self.watches.append(watch)

    async def restart(self) -> None:
        number = self._rng.randrange(2)
        await self._stacks[number].aclose()
        self.watches[number] = await self._stacks[number].enter_async_context(
            gateway(self._settings, self._rng)
        )
        self.restarts += 1

    async def stop(self) -> None:
        for stack in self._stacks:
            await stack.aclose()


async def consume(
    gateways: Gateways,
    database: Database,
    consumer: str,
    rng: random.Random,
    acknowledged: list[EventId],
) -> None:
    """Watch and acknowledge events; cut and resume the stream at random times."""
    while True:
        watch = rng.choice(gateways.watches)
        received: list[EventId] = []
        remaining = rng.randint(1, 8)
        try:
            stream = watch.watch_subscription(DEFAULT_TENANT, NAME, consumer)
            async with aclosing(stream) as pages:
                async for page in pages:
                    received += event_ids(page.events)
                    if page.mark is Mark.STANDBY:
                        continue
                    if rng.random() < 0.6:
                        await ack(database, watch, page.cursor)
                        acknowledged += received
                        received = []
                    remaining -= 1
                    if remaining < 0:
                        break
        except HeadraceError:
            pass
        await asyncio.sleep(rng.uniform(0, 0.1))


@pytest.mark.parametrize("seed", range(3))
async def test_every_event_is_acknowledged_once_despite_restarts(
    settings: Settings, database: Database, worker_id: WorkerId, bus: WakeBus, seed: int
):
    rng = random.Random(seed)
    await create(database, queues=frozenset(["yes"]))
    gateways = Gateways(settings, rng)
    await gateways.start()
    acknowledged: list[EventId] = []
    consumers = [
        asyncio.create_task(
            consume(gateways, database, f"c{n}", random.Random(f"{seed} {n}"), acknowledged)
        )
        for n in range(4)
    ]
    try:
        async with asyncio.timeout(90):
            job_ids: list[JobId] = []
            for round_number in range(60):
                jobs = await submit_many(database, rng.randint(1, 4), queue="yes")
                await submit_many(database, rng.randint(0, 2), queue="no")
                job_ids += [job.id for job in jobs]
                bus.publish(Topic.EVENTS)
                await asyncio.sleep(rng.uniform(0, 0.1))
                if round_number % 15 == 14:
                    await gateways.restart()
            await until(lambda: len(acknowledged) >= len(job_ids), within=60)
    finally:
        for consumer in consumers:
            consumer.cancel()
        ends = await asyncio.gather(*consumers, return_exceptions=True)
        await gateways.stop()
    assert {type(end) for end in ends} == {asyncio.CancelledError}
    assert gateways.restarts == 4
    assert Counter(acknowledged) == Counter((job_id, 1) for job_id in job_ids)
    assert (await read_subscription(database)).epoch > 4

"""Subscriptions: each has one consumer, fenced by its epoch, and a place that only advances."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from headrace_core.domain.errors import (
    CursorInvalid,
    LimitExceeded,
    SubscriptionConflict,
    SubscriptionNotFound,
    SubscriptionTaken,
)
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.query import JobFilter
from headrace_core.domain.subscription import (
    AcquiredSubscription,
    Subscription,
    SubscriptionId,
    SubscriptionWatch,
    WatchId,
)
from headrace_core.store.event_log import BEGINNING, Place, place_of, read_end
from headrace_core.store.sql.database import Database
from headrace_core.store.subscriptions import (
    StartsTooEarly,
    acknowledge,
    acquire_subscription,
    create_subscription,
    delete_subscription,
    get_subscription,
    list_subscriptions,
    read_holders,
    release_watches,
    renew_watches,
)
from support.jobs import history, submit
from support.until import until_blocked

NAME = "billing"
LEASE = timedelta(seconds=15)


def new_watch(name: str = NAME, *, tenant: str = DEFAULT_TENANT) -> SubscriptionWatch:
    return SubscriptionWatch(tenant=tenant, name=name, watch_id=WatchId(uuid7()))


async def create(
    database: Database,
    name: str = NAME,
    *,
    tenant: str = DEFAULT_TENANT,
    job_filter: JobFilter = JobFilter(),  # noqa: B008 - it is frozen
    after: Place | None = None,
    maximum: int = 1000,
) -> tuple[Subscription, bool]:
    async with database.transaction() as connection:
        end = (await read_end(connection)).settled
    async with database.transaction() as connection:
        return await create_subscription(
            connection,
            tenant=tenant,
            name=name,
            job_filter=job_filter,
            after=after,
            end=end,
            maximum=maximum,
        )


async def get(database: Database, name: str = NAME) -> Subscription:
    async with database.transaction() as connection:
        return await get_subscription(connection, tenant=DEFAULT_TENANT, name=name)


async def delete(database: Database, name: str = NAME) -> None:
    async with database.transaction() as connection:
        await delete_subscription(connection, tenant=DEFAULT_TENANT, name=name)


async def acquire(
    database: Database, watch: SubscriptionWatch, consumer: str, *, lease: timedelta = LEASE
) -> AcquiredSubscription | None:
    async with database.transaction() as connection:
        return await acquire_subscription(connection, watch, consumer=consumer, lease=lease)


async def renew(database: Database, *watches: SubscriptionWatch) -> set[WatchId]:
    async with database.transaction() as connection:
        return await renew_watches(connection, watches, lease=LEASE)


async def release(database: Database, *watches: SubscriptionWatch) -> int:
    async with database.transaction() as connection:
        return await release_watches(connection, watches)


async def ack(
    database: Database,
    subscription: Subscription | AcquiredSubscription,
    acknowledged_place: Place,
    **changes: Any,
) -> bool:
    arguments = {
        "tenant": DEFAULT_TENANT,
        "name": NAME,
        "subscription_id": subscription.id,
        "epoch": subscription.epoch,
        **changes,
    }
    async with database.transaction() as connection:
        return await acknowledge(connection, place=acknowledged_place, **arguments)


async def places(database: Database, count: int) -> list[Place]:
    """Create events; return their places in order."""
    job_ids: list[JobId] = [(await submit(database)).id for _ in range(count)]
    return [place_of((await history(database, job_id))[0]) for job_id in job_ids]


async def move_start(database: Database, acknowledged_place: Place) -> None:
    """Move the start of the log to a place, as a prune does."""
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO event_log (tenant, start_xid, start_position) "
                "VALUES ('default', CAST(CAST(:xid AS text) AS xid8), :position)"
            ),
            {"xid": str(acknowledged_place[0]), "position": acknowledged_place[1]},
        )


async def let_leases_lapse(database: Database) -> None:
    """Make the leases of all watches lapse."""
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE subscriptions SET lease_expire_time = clock_timestamp()")
        )


def acknowledged_place(subscription: Subscription | AcquiredSubscription) -> Place:
    return subscription.xid, subscription.position


# Creating.


async def test_new_subscription_starts_after_the_last_event(database: Database):
    empty, created = await create(database, "early")
    assert (acknowledged_place(empty), created) == (BEGINNING, True)
    assert (empty.consumer, empty.ack_time, empty.lag, empty.epoch) == (None, None, None, 0)
    *_, last = await places(database, 3)
    subscription, _ = await create(database)
    assert acknowledged_place(subscription) == last


async def test_new_subscription_starts_after_a_place(database: Database):
    first, *_ = await places(database, 3)
    subscription, _ = await create(database, after=first)
    assert acknowledged_place(subscription) == first


async def test_repeated_creation_changes_nothing(database: Database):
    first, _, third = await places(database, 3)
    subscription, _ = await create(
        database, job_filter=JobFilter(queues=frozenset("a"), labels={"b": "c"})
    )
    repeated, created = await create(
        database,
        job_filter=JobFilter(labels={"b": "c"}, queues=frozenset("a")),
        after=first,
        maximum=0,
    )
    assert not created
    assert (repeated.id, acknowledged_place(repeated)) == (subscription.id, third)


async def test_creation_with_a_different_filter_is_rejected(database: Database):
    await create(database, job_filter=JobFilter(queues=frozenset("a")))
    with pytest.raises(SubscriptionConflict):
        await create(database, job_filter=JobFilter(queues=frozenset("b")))


async def test_subscription_names_are_unique_within_a_tenant(database: Database):
    await create(database, job_filter=JobFilter(queues=frozenset("a")))
    other, created = await create(database, tenant="other")
    assert created
    assert other.tenant == "other"
    await delete(database)
    with pytest.raises(SubscriptionNotFound):
        await get(database)
    assert await acquire(database, new_watch(tenant="other"), "a") is not None


async def test_creation_above_the_maximum_is_rejected(database: Database):
    for number in range(2):
        await create(database, f"s{number}", maximum=2)
    with pytest.raises(LimitExceeded) as excinfo:
        await create(database, "s2", maximum=2)
    assert (excinfo.value.limit, excinfo.value.maximum) == ("HEADRACE_MAX_SUBSCRIPTIONS", 2)
    await create(database, "s2", tenant="other", maximum=2)
    await delete(database, "s0")
    assert (await create(database, "s2", maximum=2))[1]


async def test_concurrent_creations_keep_the_maximum(large_pool: Database):
    outcomes = await asyncio.gather(*(create(large_pool) for _ in range(16)))
    assert sum(created for _, created in outcomes) == 1
    assert len({subscription.id for subscription, _ in outcomes}) == 1
    others = await asyncio.gather(
        *(create(large_pool, f"s{number}", maximum=5) for number in range(16)),
        return_exceptions=True,
    )
    assert sum(not isinstance(other, BaseException) for other in others) == 4
    assert sum(isinstance(other, LimitExceeded) for other in others) == 12


async def test_creation_before_pruned_events_is_rejected(database: Database):
    first, second, third = await places(database, 3)
    await move_start(database, second)
    with pytest.raises(StartsTooEarly) as excinfo:
        await create(database, after=first)
    assert excinfo.value.start == second
    assert acknowledged_place((await create(database, after=second))[0]) == second
    # An existing subscription is returned, even with an earlier start.
    assert not (await create(database, after=first))[1]
    assert acknowledged_place((await create(database, "now"))[0]) == third


async def test_new_subscription_in_a_pruned_log_starts_at_log_start(database: Database):
    (place,) = await places(database, 1)
    await move_start(database, place)
    async with database.transaction() as connection:
        await connection.execute(text("TRUNCATE job_events, jobs"))
    assert acknowledged_place((await create(database))[0]) == place


# Reading.


async def test_subscriptions_are_listed_by_name(database: Database):
    for name in ("b", "a.1", "c", "a-1"):
        await create(database, name)
    await create(database, "other", tenant="other")

    async def page(after: str) -> list[str]:
        async with database.transaction() as connection:
            names = await list_subscriptions(
                connection, tenant=DEFAULT_TENANT, after=after, limit=3
            )
        return [subscription.name for subscription in names]

    first = await page("")
    second = await page(first[-1])
    assert len(first) == 3
    assert sorted(first + second) == ["a-1", "a.1", "b", "c"]
    assert await page(second[-1]) == []


async def test_lag_is_the_age_of_the_oldest_unread_event(
    database: Database,
):
    subscription, _ = await create(database)
    assert subscription.lag is None
    first, second = await places(database, 2)
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "UPDATE job_events SET time = time - CAST(:age AS interval) "
                "WHERE position = :position"
            ),
            {"age": timedelta(hours=1), "position": first[1]},
        )
    lag = (await get(database)).lag
    assert lag is not None
    assert timedelta(hours=1) <= lag < timedelta(hours=1, minutes=1)
    await ack(database, subscription, first)
    lag = (await get(database)).lag
    assert lag is not None
    assert timedelta() <= lag < timedelta(minutes=1)
    await ack(database, subscription, second)
    assert (await get(database)).lag is None


async def test_lag_is_never_negative(database: Database):
    await create(database)
    await places(database, 1)
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE job_events SET time = time + interval '1 hour'"))
    assert (await get(database)).lag == timedelta()


async def test_lag_reads_one_index_entry(database: Database):
    subscription, _ = await create(database)
    await places(database, 5)
    async with database.transaction() as connection:
        plan = await connection.scalars(
            text(
                "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) "
                "SELECT e.time FROM subscriptions s, LATERAL ("
                "SELECT * FROM job_events e WHERE (e.xid, e.position) > (s.xid, s.position) "
                "ORDER BY e.xid, e.position LIMIT 1) e "
                "WHERE s.tenant = 'default' AND s.name = 'billing'"
            )
        )
        lines = list(plan)
    (scan,) = (line for line in lines if "job_events_position_idx" in line)
    assert "rows=1" in scan, lines
    assert any("Index Cond: (ROW(xid, " in line for line in lines), (lines, subscription)


# Acquiring.


async def test_free_subscription_is_acquired_by_the_first_watch(database: Database):
    created, _ = await create(database, job_filter=JobFilter(types=frozenset("t")))
    watch = new_watch()
    acquired = await acquire(database, watch, "a")
    assert acquired == AcquiredSubscription(
        id=created.id, filter='{"types": ["t"]}', epoch=1, xid=created.xid, position=0
    )
    assert (await get(database)).consumer == "a"
    assert await acquire(database, new_watch(), "b") is None
    assert (await get(database)).epoch == 1


async def test_missing_subscription_cannot_be_acquired(database: Database):
    await create(database, tenant="other")
    with pytest.raises(SubscriptionNotFound):
        await acquire(database, new_watch(), "a")


async def test_newer_watch_of_a_consumer_replaces_the_older_one(database: Database):
    await create(database)
    older, newer = new_watch(), new_watch()
    first = await acquire(database, older, "a")
    second = await acquire(database, newer, "a")
    assert first == second
    assert await renew(database, older, newer) == {newer.watch_id}
    # The release by a replaced watch has no effect.
    assert await release(database, older) == 0
    assert await acquire(database, new_watch(), "b") is None


async def test_released_subscription_is_free_for_another_consumer(database: Database):
    await create(database)
    watch = new_watch()
    await acquire(database, watch, "a")
    assert await release(database, watch, new_watch("unknown")) == 1
    assert (await get(database)).consumer is None
    second = await acquire(database, new_watch(), "b")
    assert second is not None
    assert second.epoch == 2


async def test_returning_consumer_keeps_the_epoch(database: Database):
    await create(database)
    for _ in range(3):
        watch = new_watch()
        acquired = await acquire(database, watch, "a")
        assert acquired is not None
        assert acquired.epoch == 1
        await release(database, watch)


async def test_lapsed_lease_frees_the_subscription(database: Database):
    await create(database)
    lapsed = new_watch()
    await acquire(database, lapsed, "a")
    await let_leases_lapse(database)
    assert (await get(database)).consumer is None
    second = await acquire(database, new_watch(), "b")
    assert second is not None
    assert second.epoch == 2
    assert await renew(database, lapsed) == set()


async def test_lapsed_lease_without_a_successor_is_renewed(database: Database):
    await create(database)
    watch = new_watch()
    await acquire(database, watch, "a")
    await let_leases_lapse(database)
    assert await renew(database, watch) == {watch.watch_id}
    assert await acquire(database, new_watch(), "b") is None


async def test_concurrent_watches_get_one_holder(large_pool: Database):
    for round_number in range(5):
        name = f"s{round_number}"
        await create(large_pool, name)
        results = await asyncio.gather(
            *(acquire(large_pool, new_watch(name), f"c{number}") for number in range(16))
        )
        (acquired,) = (result for result in results if result is not None)
        assert acquired.epoch == 1
        # Sixteen watches that wait for the lapse of the lease have the same result.
        await let_leases_lapse(large_pool)
        results = await asyncio.gather(
            *(acquire(large_pool, new_watch(name), f"d{number}") for number in range(16))
        )
        (acquired,) = (result for result in results if result is not None)
        assert acquired.epoch == 2


async def test_holders_of_subscriptions_are_read(database: Database):
    acquired_subscription, _ = await create(database)
    free_subscription, _ = await create(database, "free")
    watch = new_watch()
    await acquire(database, watch, "a")
    async with database.transaction() as connection:
        holders = await read_holders(
            connection, [(DEFAULT_TENANT, name) for name in (NAME, "free", "unknown")]
        )
    assert set(holders) == {(DEFAULT_TENANT, NAME), (DEFAULT_TENANT, "free")}
    holder = holders[DEFAULT_TENANT, NAME]
    assert (holder.id, holder.consumer, holder.watch_id) == (
        acquired_subscription.id,
        "a",
        watch.watch_id,
    )
    assert holder.lease is not None
    assert timedelta(seconds=5) < holder.lease <= LEASE
    missing = holders[DEFAULT_TENANT, "free"]
    assert (missing.id, missing.watch_id, missing.lease) == (free_subscription.id, None, None)


# Acknowledging.


async def test_acknowledgement_never_moves_back(database: Database):
    subscription, _ = await create(database)
    first, second, third = await places(database, 3)
    assert await ack(database, subscription, second)
    acknowledged = await get(database)
    assert acknowledged_place(acknowledged) == second
    assert acknowledged.ack_time is not None
    assert not await ack(database, subscription, second)
    assert not await ack(database, subscription, first)
    repeated = await get(database)
    assert (acknowledged_place(repeated), repeated.ack_time) == (second, acknowledged.ack_time)
    assert await ack(database, subscription, third)


async def test_successor_starts_after_the_acknowledged_place(database: Database):
    await create(database)
    first, _ = await places(database, 2)
    watch = new_watch()
    acquired = await acquire(database, watch, "a")
    assert acquired is not None
    await ack(database, acquired, first)
    await release(database, watch)
    second = await acquire(database, new_watch(), "b")
    assert second is not None
    assert acknowledged_place(second) == first


async def test_released_subscription_can_be_acknowledged(
    database: Database,
):
    await create(database)
    first, second = await places(database, 2)
    watch = new_watch()
    acquired = await acquire(database, watch, "a")
    assert acquired is not None
    await release(database, watch)
    assert await ack(database, acquired, first)
    await acquire(database, new_watch(), "b")
    with pytest.raises(SubscriptionTaken):
        await ack(database, acquired, second)
    # An acknowledgement without an effect is also refused, because success would mislead the
    # caller.
    with pytest.raises(SubscriptionTaken):
        await ack(database, acquired, first)
    assert acknowledged_place(await get(database)) == first


async def test_foreign_acknowledgement_is_refused(database: Database):
    subscription, _ = await create(database)
    (first,) = await places(database, 1)
    with pytest.raises(SubscriptionNotFound):
        await ack(database, subscription, first, name="unknown")
    with pytest.raises(SubscriptionNotFound):
        await ack(database, subscription, first, tenant="other")
    with pytest.raises(CursorInvalid):
        await ack(database, subscription, first, subscription_id=SubscriptionId(uuid4()))
    await delete(database)
    await create(database)
    with pytest.raises(CursorInvalid):
        await ack(database, subscription, first)


async def test_deleted_subscription_is_not_found(database: Database):
    await create(database)
    watch = new_watch()
    await acquire(database, watch, "a")
    await delete(database)
    with pytest.raises(SubscriptionNotFound):
        await delete(database)
    assert await renew(database, watch) == set()
    # A new subscription with the same name has no consumer.
    await create(database)
    assert await renew(database, watch) == set()
    assert await acquire(database, new_watch(), "b") is not None


async def test_acknowledgement_during_a_takeover_is_refused(
    database: Database,
):
    await create(database)
    (first,) = await places(database, 1)
    acquired = await acquire(database, new_watch(), "a")
    assert acquired is not None
    await let_leases_lapse(database)
    async with database.transaction() as connection:
        second = await acquire_subscription(connection, new_watch(), consumer="b", lease=LEASE)
        late_ack = asyncio.create_task(ack(database, acquired, first))
        await until_blocked(database)
    with pytest.raises(SubscriptionTaken):
        await late_ack
    assert second is not None
    assert acknowledged_place(await get(database)) == acknowledged_place(second) == BEGINNING


async def test_successor_starts_after_a_concurrent_acknowledgement(
    database: Database,
):
    await create(database)
    (first,) = await places(database, 1)
    acquired = await acquire(database, new_watch(), "a")
    assert acquired is not None
    await let_leases_lapse(database)
    async with database.transaction() as connection:
        assert await acknowledge(
            connection,
            tenant=DEFAULT_TENANT,
            name=NAME,
            subscription_id=acquired.id,
            epoch=acquired.epoch,
            place=first,
        )
        acquiring = asyncio.create_task(acquire(database, new_watch(), "b"))
        await until_blocked(database)
    outcome = await acquiring
    assert outcome is not None
    assert acknowledged_place(outcome) == first


async def test_concurrent_acknowledgements_keep_the_last_place(large_pool: Database):
    subscription, _ = await create(large_pool)
    event_places = await places(large_pool, 12)
    await asyncio.gather(*(ack(large_pool, subscription, one) for one in reversed(event_places)))
    assert acknowledged_place(await get(large_pool)) == event_places[-1]


async def test_waiting_watch_does_not_replace_a_newer_one(
    database: Database,
) -> None:
    await create(database)
    older, newer = new_watch(), new_watch()
    assert await acquire(database, newer, consumer="one") is not None
    async with database.transaction() as connection:
        refused = await acquire_subscription(
            connection, older, consumer="one", lease=LEASE, takes_over=False
        )
        assert refused is None
        # A watch that starts now takes over, independently of the gateways' clocks.
        assert await acquire_subscription(connection, older, consumer="one", lease=LEASE)
        assert await acquire_subscription(
            connection, newer, consumer="one", lease=LEASE, takes_over=False
        )

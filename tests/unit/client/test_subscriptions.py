"""Named subscriptions, against a real server in this process."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import grpc
import pytest

from headrace import (
    Client,
    CursorExpired,
    JobFilter,
    JobState,
    SubscriptionConflict,
    SubscriptionNotFound,
    SubscriptionTaken,
    Unavailable,
)
from headrace._timing import Timing
from support.until import until


@pytest.fixture
async def client(server):
    async with Client(server.target) as client:
        yield client


@pytest.fixture
async def billing(client, platform):
    """The server's record of a subscription to all jobs."""
    await client.create_subscription("billing")
    return platform.subscriptions.by_name["billing"]


async def take(events, count):
    async with asyncio.timeout(30):
        return [await anext(events) for _ in range(count)]


async def until_called(platform, method, count):
    await platform.until(lambda: platform.called_methods().count(method) >= count)


def event_ids(events):
    return [(event.job_id, event.seq) for event in events]


# Creation and queries


async def test_repeated_creation_returns_the_subscription(client):
    job_filter = {"queues": ["mail"], "states": ["FAILED"], "labels": {"team": "ml"}}

    created = await client.create_subscription("billing", **job_filter)
    again = await client.create_subscription("billing", **job_filter)

    assert (created.created, again.created) == (True, False)
    assert created.name == "billing"
    assert created.filter == JobFilter(
        queues=("mail",), states=(JobState.FAILED,), labels={"team": "ml"}
    )
    with pytest.raises(SubscriptionConflict) as caught:
        await client.create_subscription("billing", queues=["sms"])
    assert caught.value.name == "billing"


async def test_create_subscription_sends_filters_and_cursor(client, platform):
    batch, *jobs = (str(uuid4()) for _ in range(3))
    await client.create_subscription(
        "all", types=["email"], batch_id=batch, job_ids=jobs, cursor="0"
    )

    request = platform.last_request("CreateSubscription")
    assert (list(request.filter.types), request.filter.batch_id) == (["email"], batch)
    assert (list(request.filter.job_ids), request.cursor) == (jobs, "0")


async def test_subscription_returns_consumer_lag_and_ack_time(client, platform, billing):
    job = await client.submit("wait")
    platform.backdate(job.id, timedelta(minutes=90))
    before = await client.subscription("billing")
    assert (before.consumer, before.ack_time) == ("", None)
    assert before.lag >= timedelta(minutes=90)
    assert before.create_time.tzinfo

    async with client.subscribe("billing", consumer="a") as events:
        await take(events, 2)
        await events.ack()
        now = await client.subscription("billing")

    assert (now.consumer, now.lag) == ("a", None)
    assert now.ack_time


async def test_subscriptions_yields_all_pages(client, platform):
    for n in range(7):
        await client.create_subscription(f"s{n}")

    found = [subscription.name async for subscription in client.subscriptions(page_size=3)]

    assert found == [f"s{n}" for n in range(7)]
    assert platform.called_methods().count("ListSubscriptions") == 3


async def test_unknown_subscription_is_not_found(client):
    with pytest.raises(SubscriptionNotFound):
        await client.subscription("nope")
    with pytest.raises(SubscriptionNotFound):
        await client.delete_subscription("nope")
    with pytest.raises(SubscriptionNotFound) as caught:
        async with client.subscribe("nope"):
            pass
    assert caught.value.name == "nope"


async def test_deleted_subscription_ends_its_watch(client, billing):
    async with client.subscribe("billing") as events:
        await client.delete_subscription("billing")
        with pytest.raises(SubscriptionNotFound):
            await anext(events)


# Events and acknowledgments


async def test_event_is_resent_until_acknowledged(client, billing):
    job = await client.submit("wait")
    async with client.subscribe("billing") as events:
        assert event_ids(await take(events, 2)) == [(job.id, 1), (job.id, 2)]
    async with client.subscribe("billing") as events:
        assert event_ids(await take(events, 2)) == [(job.id, 1), (job.id, 2)]
        assert await events.ack()
    other = await client.submit("wait")
    async with client.subscribe("billing") as events:
        assert event_ids(await take(events, 1)) == [(other.id, 1)]


async def test_ack_covers_only_yielded_events(client, platform, billing):
    platform.subscriptions.max_events = 3
    for _ in range(3):
        await client.submit("wait")
    done = []
    async with client.subscribe("billing") as events:
        for _ in range(5):
            await take(events, 1)
            done.append((await events.ack(), platform.acks()))

    # Messages of three events each: a message is acknowledged after its last event.
    assert done == [(False, []), (False, []), (True, [3]), (False, [3]), (False, [3])]
    async with client.subscribe("billing") as events:
        assert [event.seq for event in await take(events, 3)] == [2, 1, 2]


async def test_ack_without_new_events_makes_no_call(client, platform, billing):
    async with client.subscribe("billing") as events:
        await client.submit("wait")
        await take(events, 1)
        for _ in range(3):
            assert await events.ack()

    assert platform.called_methods().count("AckSubscription") == 1


async def test_failed_ack_can_be_repeated(server, platform, billing):
    async with Client(server.target, retries=0) as client, client.subscribe("billing") as events:
        await client.submit("wait")
        await take(events, 2)
        platform.unavailable = 1
        with pytest.raises(Unavailable):
            await events.ack()
        assert billing.position == 0
        assert await events.ack()

    assert (billing.position, platform.acks()) == (2, [2, 2])


async def test_cut_subscription_yields_each_event_once(client, platform, billing):
    platform.subscriptions.max_events = 4
    async with client.subscribe("billing", consumer="a") as events:
        first = await client.submit("wait")
        seen = await take(events, 2)
        platform.cut()
        # The next message contains both yielded and new events.
        second = await client.submit("wait")
        seen += await take(events, 2)

        assert event_ids(seen) == [(first.id, 1), (first.id, 2), (second.id, 1), (second.id, 2)]
        assert events.resumes == 1
        assert await events.ack()
    assert platform.acks() == [4]
    consumers = [
        c.request.consumer for c in platform.received_calls if c.method == "WatchSubscription"
    ]
    assert consumers == ["a", "a"]


async def test_ack_after_a_cut_covers_earlier_events(client, platform, billing):
    async with client.subscribe("billing") as events:
        await client.submit("wait")
        await take(events, 2)
        platform.cut()
        ahead = asyncio.create_task(anext(events))
        await until_called(platform, "WatchSubscription", 2)

        assert await events.ack()
        await client.submit("wait")
        assert (await ahead).seq == 1
    assert platform.acks() == [2]


async def test_repeated_events_do_not_move_the_cursor_back(client, platform, billing):
    platform.subscriptions.max_events = 2
    async with client.subscribe("billing") as events:
        for _ in range(2):
            await client.submit("wait")
        await take(events, 4)
        platform.remaining_messages = 1
        platform.cut()
        ahead = asyncio.create_task(anext(events))
        # The first two events are repetitions, the other two are not.
        await until(lambda: events.resumes)

        assert await events.ack()
        assert platform.acks() == [4]
        platform.remaining_messages = None
        await client.submit("wait")
        assert (await ahead).seq == 1


async def test_subscription_resumes_at_another_gateway(server, second_server, platform, billing):
    async with (
        Client([server.target, second_server.target]) as client,
        client.subscribe("billing") as events,
    ):
        job = await client.submit("wait")
        seen = await take(events, 2)
        await server.stop()
        platform.finish(job.id)
        seen += await take(events, 1)
        assert await events.ack()

    assert event_ids(seen) == [(job.id, 1), (job.id, 2), (job.id, 3)]
    assert platform.acks() == [3]


async def test_slow_consumer_resumes_without_backoff(server, platform, billing):
    client = Client(server.target, _timing=Timing(first_backoff=1000.0))
    async with client, client.subscribe("billing") as events:
        await client.submit("wait")
        seen = await take(events, 2)
        platform.end_as_slow()
        await client.submit("wait")
        seen += await take(events, 2)

    assert [event.seq for event in seen] == [1, 2, 1, 2]
    assert events.resumes == 1


async def test_cancelled_wait_for_a_subscription_loses_no_event(client, platform, billing):
    async with client.subscribe("billing") as events:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(events)
        await client.submit("wait")
        assert (await take(events, 1))[0].seq == 1

    assert platform.called_methods().count("WatchSubscription") == 1


async def test_unmatched_events_are_acknowledged(client, platform):
    platform.send_idle_marks()
    await client.create_subscription("mail", queues=["mail"])
    mail = platform.subscriptions.by_name["mail"]
    async with client.subscribe("mail") as events:
        ahead = asyncio.create_task(anext(events))
        await client.submit("wait")
        await platform.until(lambda: mail.position == 2)
        await client.submit("wait", queue="mail")
        assert (await ahead).seq == 1


async def test_unmatched_events_wait_for_earlier_acks(client, platform):
    platform.send_idle_marks()
    await client.create_subscription("mail", queues=["mail"])
    job = await client.submit("wait", queue="mail")
    async with client.subscribe("mail") as events:
        await take(events, 2)
        ahead = asyncio.create_task(anext(events))
        start = events.cursor
        await client.submit("wait")
        await until(lambda: events.cursor != start)
        platform.finish(job.id)
        assert (await ahead).seq == 3
        assert platform.acks() == []

        assert await events.ack()
    assert platform.acks() == [5]


# Several consumers


async def test_second_consumer_stays_on_standby(server, client, platform, billing):
    async with (
        client.subscribe("billing", consumer="a") as first,
        Client(server.target) as other,
        other.subscribe("billing") as second,
    ):
        assert (first.standby, second.standby) == (False, True)
        ahead = asyncio.create_task(anext(second))
        job = await client.submit("wait")
        seen = await take(first, 1)
        await first.ack()
        assert not ahead.done()
        await first.aclose()

        async with asyncio.timeout(30):
            seen.append(await ahead)
        assert not second.standby
        assert await second.ack()

    assert event_ids(seen) == [(job.id, 1), (job.id, 2)]
    assert platform.acks() == [1, 2]
    assert billing.consumer == second.consumer != "a"


async def test_replaced_consumer_with_open_events_ends(client, platform, billing):
    async with client.subscribe("billing", consumer="a") as events:
        await client.submit("wait")
        await take(events, 2)
        platform.take_over("billing", "b")
        with pytest.raises(SubscriptionTaken, match="another watch") as caught:
            await events.ack()
        for wait in (anext(events), events.ack()):
            with pytest.raises(SubscriptionTaken):
                await wait

    assert caught.value.name == "billing"
    assert billing.position == 0


async def test_replaced_consumer_without_open_events_waits(client, platform, billing):
    async with client.subscribe("billing", consumer="a") as events:
        await client.submit("wait")
        await take(events, 2)
        assert await events.ack()
        ahead = asyncio.create_task(anext(events))
        platform.take_over("billing", "b")
        await until_called(platform, "WatchSubscription", 2)
        assert not ahead.done()
        assert events.standby
        platform.release("billing")
        job = await client.submit("wait")

        async with asyncio.timeout(30):
            assert event_ids([await ahead, *await take(events, 1)]) == [(job.id, 1), (job.id, 2)]
        assert not events.standby
        assert await events.ack()


async def test_newer_consumer_with_the_same_name_receives(client, billing):
    async with (
        client.subscribe("billing", consumer="a") as older,
        client.subscribe("billing", consumer="a") as newer,
    ):
        job = await client.submit("wait")
        assert event_ids(await take(newer, 1)) == [(job.id, 1)]
        with pytest.raises(SubscriptionTaken):
            await anext(older)
        assert await newer.ack()


async def test_consumer_has_a_unique_default_name(client):
    first, second = client.subscribe("billing"), client.subscribe("billing")

    assert first.consumer != second.consumer
    assert first.consumer.isprintable()
    assert len(first.consumer) <= 128
    assert client.subscribe("billing", consumer="pod-1").consumer == "pod-1"


# Deleted events


async def test_deleted_events_can_be_skipped_with_ack(client, platform, billing):
    await client.submit("wait")
    platform.prune()
    with pytest.raises(CursorExpired) as caught:
        async with client.subscribe("billing"):
            pass

    await client.ack_subscription("billing", caught.value.oldest_cursor)

    job = await client.submit("wait")
    async with client.subscribe("billing") as events:
        assert event_ids(await take(events, 1)) == [(job.id, 1)]


async def test_gateway_without_subscriptions_rejects_the_call(client, platform):
    platform.reject_with = grpc.StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND"
    with pytest.raises(SubscriptionNotFound, match="rejected"):
        await client.create_subscription("x")

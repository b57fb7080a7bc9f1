"""Named subscriptions, against a real server in this process."""

import asyncio
from datetime import timedelta

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
    """A subscription to everything, as the server has it."""
    await client.create_subscription("billing")
    return platform.subscriptions.held["billing"]


async def take(events, count):
    async with asyncio.timeout(30):
        return [await anext(events) for _ in range(count)]


async def again(platform, method, count):
    await platform.until(lambda: platform.methods().count(method) >= count)


def names(events):
    return [(event.job_id, event.seq) for event in events]


# What there is


async def test_a_subscription_is_created_once(client):
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


async def test_every_filter_and_the_cursor_reach_the_server(client, platform):
    await client.create_subscription(
        "all", types=["email"], batch_id="b1", job_ids=["j1", "j2"], cursor="7"
    )

    request = platform.last("CreateSubscription")
    assert (list(request.filter.types), request.filter.batch_id) == (["email"], "b1")
    assert (list(request.filter.job_ids), request.cursor) == (["j1", "j2"], "7")


async def test_a_subscription_tells_of_itself(client, platform, billing):
    await client.submit("wait")
    before = await client.subscription("billing")
    assert (before.consumer, before.ack_time, before.lag) == ("", None, timedelta(seconds=90))
    assert before.create_time.tzinfo

    async with client.subscribe("billing", consumer="a") as events:
        await take(events, 2)
        await events.ack()
        now = await client.subscription("billing")

    assert (now.consumer, now.lag) == ("a", None)
    assert now.ack_time


async def test_all_pages_are_listed(client, platform):
    for n in range(7):
        await client.create_subscription(f"s{n}")

    found = [subscription.name async for subscription in client.subscriptions(page_size=3)]

    assert found == [f"s{n}" for n in range(7)]
    assert platform.methods().count("ListSubscriptions") == 3


async def test_one_that_is_not_there_is_not_found(client):
    with pytest.raises(SubscriptionNotFound):
        await client.subscription("nope")
    with pytest.raises(SubscriptionNotFound):
        await client.delete_subscription("nope")
    with pytest.raises(SubscriptionNotFound) as caught:
        async with client.subscribe("nope"):
            pass
    assert caught.value.name == "nope"


async def test_deleting_ends_who_receives(client, billing):
    async with client.subscribe("billing") as events:
        await client.delete_subscription("billing")
        with pytest.raises(SubscriptionNotFound):
            await anext(events)


# Receiving and acknowledging


async def test_events_come_until_they_are_acknowledged(client, billing):
    job = await client.submit("wait")
    async with client.subscribe("billing") as events:
        assert names(await take(events, 2)) == [(job.id, 1), (job.id, 2)]
    async with client.subscribe("billing") as events:
        assert names(await take(events, 2)) == [(job.id, 1), (job.id, 2)]
        assert await events.ack()
    other = await client.submit("wait")
    async with client.subscribe("billing") as events:
        assert names(await take(events, 1)) == [(other.id, 1)]


async def test_an_event_that_was_not_yielded_is_never_acknowledged(client, platform, billing):
    platform.subscriptions.pack = 3
    for _ in range(3):
        await client.submit("wait")
    done = []
    async with client.subscribe("billing") as events:
        for _ in range(5):
            await take(events, 1)
            done.append((await events.ack(), list(billing.acks)))

    # Messages of three events each: the first one is acknowledged behind its last event.
    assert done == [(False, []), (False, []), (True, [3]), (False, [3]), (False, [3])]
    async with client.subscribe("billing") as events:
        assert [event.seq for event in await take(events, 3)] == [2, 1, 2]


async def test_with_nothing_new_an_ack_calls_nobody(client, platform, billing):
    async with client.subscribe("billing") as events:
        await client.submit("wait")
        await take(events, 1)
        for _ in range(3):
            assert await events.ack()

    assert platform.methods().count("AckSubscription") == 1


async def test_an_ack_that_did_not_come_through_is_repeated(server, platform, billing):
    async with Client(server.target, retries=0) as client, client.subscribe("billing") as events:
        await client.submit("wait")
        await take(events, 2)
        platform.unavailable = 1
        with pytest.raises(Unavailable):
            await events.ack()
        assert billing.acks == []
        assert await events.ack()

    assert billing.acks == [2]


async def test_a_cut_yields_nothing_twice_and_leaves_out_nothing(client, platform, billing):
    platform.subscriptions.pack = 4
    async with client.subscribe("billing", consumer="a") as events:
        first = await client.submit("wait")
        seen = await take(events, 2)
        platform.cut()
        # The message that comes now has what was yielded and what was not.
        second = await client.submit("wait")
        seen += await take(events, 2)

        assert names(seen) == [(first.id, 1), (first.id, 2), (second.id, 1), (second.id, 2)]
        assert events.resumes == 1
        assert await events.ack()
    assert billing.acks == [4]
    consumers = [c.request.consumer for c in platform.seen if c.method == "WatchSubscription"]
    assert consumers == ["a", "a"]


async def test_an_ack_is_good_across_a_cut(client, platform, billing):
    async with client.subscribe("billing") as events:
        await client.submit("wait")
        await take(events, 2)
        platform.cut()
        ahead = asyncio.create_task(anext(events))
        await again(platform, "WatchSubscription", 2)

        assert await events.ack()
        await client.submit("wait")
        assert (await ahead).seq == 1
    assert billing.acks == [2]


async def test_what_comes_again_after_a_cut_does_not_move_the_cursor_back(
    client, platform, billing
):
    platform.subscriptions.pack = 2
    async with client.subscribe("billing") as events:
        for _ in range(2):
            await client.submit("wait")
        await take(events, 4)
        platform.subscriptions.room = 1
        platform.cut()
        ahead = asyncio.create_task(anext(events))
        # The first two events have come again, and the other two have not.
        await until(lambda: events.resumes)

        assert await events.ack()
        assert billing.acks == [4]
        platform.subscriptions.room = None
        await client.submit("wait")
        assert (await ahead).seq == 1


async def test_it_goes_on_at_another_gateway(server, second, platform, billing):
    async with (
        Client([server.target, second.target]) as client,
        client.subscribe("billing") as events,
    ):
        job = await client.submit("wait")
        seen = await take(events, 2)
        await server.stop()
        platform.finish(job.id)
        seen += await take(events, 1)
        assert await events.ack()

    assert names(seen) == [(job.id, 1), (job.id, 2), (job.id, 3)]
    assert billing.acks == [3]


async def test_slow_reader_is_resumed_without_backoff(server, platform, billing):
    client = Client(server.target, _timing=Timing(first_retry=1000.0))
    async with client, client.subscribe("billing") as events:
        await client.submit("wait")
        seen = await take(events, 2)
        platform.slow()
        await client.submit("wait")
        seen += await take(events, 2)

    assert [event.seq for event in seen] == [1, 2, 1, 2]
    assert events.resumes == 1


async def test_a_wait_that_is_given_up_loses_nothing(client, platform, billing):
    async with client.subscribe("billing") as events:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(events)
        await client.submit("wait")
        assert (await take(events, 1))[0].seq == 1

    assert platform.methods().count("WatchSubscription") == 1


async def test_what_does_not_match_is_passed_by(client, platform):
    await client.create_subscription("mail", queues=["mail"])
    mail = platform.subscriptions.held["mail"]
    async with client.subscribe("mail") as events:
        ahead = asyncio.create_task(anext(events))
        await client.submit("wait")
        platform.subscriptions.idle()
        await platform.until(lambda: mail.acks == [2])
        await client.submit("wait", queue="mail")
        assert (await ahead).seq == 1


async def test_but_not_while_an_event_is_unacknowledged(client, platform):
    await client.create_subscription("mail", queues=["mail"])
    mail = platform.subscriptions.held["mail"]
    job = await client.submit("wait", queue="mail")
    async with client.subscribe("mail") as events:
        await take(events, 2)
        ahead = asyncio.create_task(anext(events))
        await client.submit("wait")
        begin = events.cursor
        platform.subscriptions.idle()
        await until(lambda: events.cursor != begin)
        platform.finish(job.id)
        assert (await ahead).seq == 3
        assert mail.acks == []

        assert await events.ack()
    assert mail.acks == [5]


# Several consumers


async def test_one_receives_and_the_others_stand_by(server, client, platform, billing):
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

    assert names(seen) == [(job.id, 1), (job.id, 2)]
    assert billing.acks == [1, 2]
    assert billing.consumer == second.consumer != "a"


async def test_who_was_replaced_cannot_acknowledge_and_ends(client, platform, billing):
    async with client.subscribe("billing", consumer="a") as events:
        await client.submit("wait")
        await take(events, 2)
        platform.subscriptions.take_away("billing", "b")
        with pytest.raises(SubscriptionTaken, match="another consumer") as caught:
            await events.ack()
        for wait in (anext(events), events.ack()):
            with pytest.raises(SubscriptionTaken):
                await wait

    assert caught.value.name == "billing"
    assert billing.acks == []


async def test_who_has_acknowledged_everything_stands_by_when_replaced(client, platform, billing):
    async with client.subscribe("billing", consumer="a") as events:
        await client.submit("wait")
        await take(events, 2)
        assert await events.ack()
        ahead = asyncio.create_task(anext(events))
        platform.subscriptions.take_away("billing", "b")
        await again(platform, "WatchSubscription", 2)
        assert not ahead.done()
        assert events.standby
        platform.subscriptions.let_go("billing")
        job = await client.submit("wait")

        async with asyncio.timeout(30):
            assert names([await ahead, *await take(events, 1)]) == [(job.id, 1), (job.id, 2)]
        assert not events.standby
        assert await events.ack()


async def test_of_two_of_one_name_the_newer_one_receives(client, billing):
    async with (
        client.subscribe("billing", consumer="a") as older,
        client.subscribe("billing", consumer="a") as newer,
    ):
        job = await client.submit("wait")
        assert names(await take(newer, 1)) == [(job.id, 1)]
        with pytest.raises(SubscriptionTaken):
            await anext(older)
        assert await newer.ack()


async def test_each_has_a_name_of_its_own_unless_given(client):
    first, second = client.subscribe("billing"), client.subscribe("billing")

    assert first.consumer != second.consumer
    assert first.consumer.isprintable()
    assert len(first.consumer) <= 128
    assert client.subscribe("billing", consumer="pod-1").consumer == "pod-1"


# What is not kept any more


async def test_what_is_not_kept_any_more_is_told_and_can_be_given_up(client, billing):
    await client.submit("wait")
    billing.expired = True
    with pytest.raises(CursorExpired) as caught:
        async with client.subscribe("billing"):
            pass

    await client.ack_subscription("billing", caught.value.oldest_cursor)

    async with client.subscribe("billing") as events:
        assert (await take(events, 1))[0].seq == 2


async def test_a_gateway_without_subscriptions_says_so(client, platform):
    platform.refuse = grpc.StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND"
    with pytest.raises(SubscriptionNotFound, match="refused"):
        await client.create_subscription("x")

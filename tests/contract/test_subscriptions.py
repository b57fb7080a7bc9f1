"""Subscriptions: creation, acknowledgments, consumers and expiry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from grpc.aio import EOF

from headrace import (
    Client,
    CursorExpired,
    CursorInvalid,
    InvalidRequest,
    SubscriptionConflict,
    SubscriptionNotFound,
    SubscriptionTaken,
)
from headrace.v1 import subscription_service_pb2 as pb
from headrace.v1.job_service_pb2 import (
    WATCH_MARK_CAUGHT_UP,
    WATCH_MARK_IDLE,
    WATCH_MARK_STANDBY,
    JobFilter,
)
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from support.contract import IDLE, Driver
from support.gateway import TIMEOUT, rpc_error

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE_SECOND = Duration(seconds=1)


async def read(call: Any) -> Any:
    async with asyncio.timeout(TIMEOUT):
        return await call.read()


async def read_until(call: Any, mark: int) -> list[Any]:
    """Return the responses up to a mark."""
    responses = [await read(call)]
    while responses[-1].mark != mark:
        responses.append(await read(call))
    return responses


async def read_to_events(call: Any) -> Any:
    """Return the next response with events; an unsettled event may follow a mark."""
    while not (response := await read(call)).events:
        assert response.mark
    return response


async def read_ids(events: Any, count: int) -> list[tuple[str, int]]:
    async with asyncio.timeout(TIMEOUT):
        received = [await anext(events) for _ in range(count)]
    return [(event.job_id, event.seq) for event in received]


@asynccontextmanager
async def receiving(
    subscriptions: SubscriptionServiceStub, name: str, consumer: str
) -> AsyncIterator[Any]:
    """Open a subscription stream for the duration of the block."""
    request = pb.WatchSubscriptionRequest(name=name, consumer=consumer, idle_interval=ONE_SECOND)
    call = subscriptions.WatchSubscription(request)
    try:
        yield call
    finally:
        call.cancel()


# Creation and lists


async def test_repeated_creation_returns_the_subscription(client: Client, name: str):
    created = await client.create_subscription(name, queues=[name], labels={"a": "b"})
    repeated = await client.create_subscription(name, queues=[name], labels={"a": "b"})
    assert (created.created, repeated.created) == (True, False)
    assert (created.name, created.filter) == (name, repeated.filter)
    assert created.create_time == repeated.create_time
    assert (created.consumer, created.ack_time) == ("", None)
    with pytest.raises(SubscriptionConflict) as excinfo:
        await client.create_subscription(name, queues=["other"])
    assert (excinfo.value.name, excinfo.value.refusal.code) == (name, "ALREADY_EXISTS")


async def test_malformed_name_is_invalid(client: Client):
    with pytest.raises(InvalidRequest) as excinfo:
        await client.create_subscription("Bad Name")
    assert [violation.field for violation in excinfo.value.violations] == ["name"]


async def test_unknown_subscription_is_not_found(client: Client, name: str):
    for call in (client.subscription(name), client.delete_subscription(name)):
        with pytest.raises(SubscriptionNotFound) as excinfo:
            await call
        assert (excinfo.value.name, excinfo.value.refusal.code) == (name, "NOT_FOUND")
    with pytest.raises(SubscriptionNotFound):
        async with client.subscribe(name):
            pass


async def test_pages_list_subscriptions_by_name(
    subscriptions: SubscriptionServiceStub, client: Client, name: str
):
    for number in (2, 0, 1):
        await client.create_subscription(f"{name}-{number}")
    request = pb.ListSubscriptionsRequest(page_size=1)
    names = []
    while True:
        page = await subscriptions.ListSubscriptions(request)
        names += [one.name for one in page.subscriptions]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert names == sorted(names)
    assert [one for one in names if one.startswith(name)] == [f"{name}-{n}" for n in range(3)]
    error = await rpc_error(
        subscriptions.ListSubscriptions(pb.ListSubscriptionsRequest(page_token="bogus"))
    )
    assert error.reason == "PAGE_TOKEN_INVALID"


async def test_subscription_starts_after_a_cursor(client: Client, name: str):
    async with client.watch(queues=[name]) as watch:
        await client.submit(IDLE, queue=name)
        await read_ids(watch, 1)
        cursor = watch.cursor
        second = await client.submit(IDLE, queue=name)
        await read_ids(watch, 1)
        await client.create_subscription(name, queues=[name], cursor=cursor)
    await client.create_subscription(f"{name}-now", queues=[name])
    third = await client.submit(IDLE, queue=name)
    async with client.subscribe(name) as events:
        assert await read_ids(events, 2) == [(second.id, 1), (third.id, 1)]
    async with client.subscribe(f"{name}-now") as events:
        assert await read_ids(events, 1) == [(third.id, 1)]


# Receiving and acknowledging


async def test_events_repeat_until_acknowledged(client: Client, name: str):
    await client.create_subscription(name, queues=[name])
    job = await client.submit(IDLE, queue=name)
    for _ in range(2):
        async with client.subscribe(name) as events:
            assert await read_ids(events, 1) == [(job.id, 1)]
    async with client.subscribe(name) as events:
        await read_ids(events, 1)
        assert await events.ack()
        assert (await client.subscription(name)).ack_time
    await job.cancel()
    async with client.subscribe(name) as events:
        assert await read_ids(events, 1) == [(job.id, 2)]


async def test_subscription_reports_its_consumer(client: Client, name: str):
    await client.create_subscription(name, queues=[name])
    await client.submit(IDLE, queue=name)
    assert (await client.subscription(name)).lag is not None
    async with client.subscribe(name, consumer="a"):
        assert (await client.subscription(name)).consumer == "a"


async def test_cursors_of_marks_can_be_acknowledged(
    subscriptions: SubscriptionServiceStub, client: Client, name: str
):
    await client.create_subscription(name, queues=[name])
    job = await client.submit(IDLE, queue=name)
    async with receiving(subscriptions, name, "a") as call:
        received = await read_to_events(call)
        assert [event.seq for event in received.events] == [1]
        await client.submit(IDLE)
        idle = (await read_until(call, WATCH_MARK_IDLE))[-1]
        ack = pb.AckSubscriptionRequest(name=name, cursor=idle.cursor)
        await subscriptions.AckSubscription(ack)
        # An older or a repeated cursor changes nothing.
        for cursor in (idle.cursor, received.cursor):
            await subscriptions.AckSubscription(pb.AckSubscriptionRequest(name=name, cursor=cursor))
    await job.cancel()
    async with client.subscribe(name) as events:
        assert await read_ids(events, 1) == [(job.id, 2)]


async def test_foreign_cursor_is_not_acknowledged(client: Client, name: str):
    await client.create_subscription(name)
    with pytest.raises(CursorInvalid):
        await client.ack_subscription(name, "bogus")


async def test_invalid_cursor_of_unknown_subscription_is_invalid(client: Client, name: str):
    with pytest.raises(CursorInvalid):
        await client.ack_subscription(name, "bogus")


async def test_deleted_subscription_ends_its_stream(client: Client, name: str):
    await client.create_subscription(name, queues=[name])
    async with client.subscribe(name) as events:
        await client.delete_subscription(name)
        with pytest.raises(SubscriptionNotFound):
            await read_ids(events, 1)


# Several consumers


async def test_standby_takes_over(
    subscriptions: SubscriptionServiceStub, client: Client, name: str
):
    await client.create_subscription(name, queues=[name])
    job = await client.submit(IDLE, queue=name)
    async with (
        receiving(subscriptions, name, "a") as one,
        receiving(subscriptions, name, "b") as other,
    ):
        opened = {one: await read(one), other: await read(other)}
        # Only one of the two consumers receives events.
        [standby] = [c for c, first in opened.items() if first.mark == WATCH_MARK_STANDBY]
        [active] = opened.keys() - {standby}
        assert opened[standby].cursor == ""
        active.cancel()
        response = await read_to_events(standby)
        assert [event.job_id for event in response.events] == [job.id]


async def test_replaced_consumer_cannot_acknowledge(
    subscriptions: SubscriptionServiceStub, client: Client, name: str
):
    await client.create_subscription(name, queues=[name])
    await client.submit(IDLE, queue=name)
    async with receiving(subscriptions, name, "a") as first:
        cursor = (await read(first)).cursor
    async with receiving(subscriptions, name, "b") as second:
        response = (await read_until(second, WATCH_MARK_CAUGHT_UP))[-1]
        with pytest.raises(SubscriptionTaken) as excinfo:
            await client.ack_subscription(name, cursor)
        assert (excinfo.value.name, excinfo.value.refusal.code) == (name, "ABORTED")
        await client.ack_subscription(name, response.cursor)


async def test_newer_watch_of_a_consumer_replaces_the_older_one(
    subscriptions: SubscriptionServiceStub, client: Client, name: str
):
    await client.create_subscription(name, queues=[name])
    job = await client.submit(IDLE, queue=name)
    async with receiving(subscriptions, name, "a") as older:
        cursor = (await read(older)).cursor
        newer = subscriptions.WatchSubscription(
            pb.WatchSubscriptionRequest(name=name, consumer="a")
        )
        received = await read_to_events(newer)
        assert [event.job_id for event in received.events] == [job.id]
        error = await rpc_error(read_to_the_end(older))
        assert (error.code, error.reason) == (StatusCode.ABORTED, "SUBSCRIPTION_TAKEN")
        assert error.metadata == {"subscription": name}
        # The same consumer may still acknowledge the events of its older watch.
        await client.ack_subscription(name, cursor)
        newer.cancel()


async def read_to_the_end(call: Any) -> None:
    while await read(call) is not EOF:
        pass


# Expiry


async def test_subscription_expires_after_missed_events(client: Client, driver: Driver, name: str):
    await client.create_subscription(name, queues=[name])
    job = await client.submit(IDLE, queue=name)
    await job.cancel()
    await driver.prune()
    with pytest.raises(CursorExpired) as excinfo:
        async with client.subscribe(name):
            pass
    await client.ack_subscription(name, excinfo.value.oldest_cursor)
    other = await client.submit(IDLE, queue=name)
    async with client.subscribe(name) as events:
        assert await read_ids(events, 1) == [(other.id, 1)]


async def test_subscription_filter_is_validated(subscriptions: SubscriptionServiceStub):
    request = pb.CreateSubscriptionRequest(name="bad", filter=JobFilter(job_ids=["x"]))
    error = await rpc_error(subscriptions.CreateSubscription(request))
    assert error.violations.keys() == {"filter.job_ids[0]"}

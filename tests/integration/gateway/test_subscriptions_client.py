"""The Python client's watches and subscriptions, with real gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest

from headrace import Client, CursorExpired, JobEvent, SubscriptionTaken, SyncClient, _gateways
from headrace._event_stream import EventStream
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support.gateway import TIMEOUT, FakeWorker
from support.retention import prune
from support.until import until

PAYLOAD = {"data": [1, 2, 3]}
# Options for a flow-control window that does not grow, and an output of the maximum size. A few
# outputs fill the window and gRPC's buffer.
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)]
OUTPUT = '"' + 60_000 * "x" + '"'
OUTPUTS = 12


@pytest.fixture
async def other_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    gateway = Gateway(settings)
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[Client]:
    async with Client(target(gateway)) as client:
        yield client


@pytest.fixture
def patience() -> float:
    """The time for which a reader may stall in these tests, in seconds."""
    return 60.0


@pytest.fixture
def settings(settings: Settings, patience: float) -> Settings:
    return settings.model_copy(update={"stream_patience": patience, "stream_queue_events": 5})


def target(gateway: Gateway) -> str:
    return f"127.0.0.1:{gateway.port}"


def event_ids(events: Iterable[JobEvent]) -> list[tuple[str, int]]:
    return [(event.job_id, event.seq) for event in events]


async def read_events(events: EventStream, count: int) -> list[JobEvent]:
    async with asyncio.timeout(TIMEOUT):
        return [await anext(events) for _ in range(count)]


async def test_acknowledged_events_are_never_resent(client: Client, worker: FakeWorker):
    created = await client.create_subscription("billing", queues=["math"])
    assert created.created
    await client.submit("square_sum", PAYLOAD, queue="other")
    job = await client.submit("square_sum", PAYLOAD)
    async with client.subscribe("billing") as events:
        assert event_ids(await read_events(events, 1)) == [(job.id, 1)]
        await worker.start_job(job.id)
        assert event_ids(await read_events(events, 1)) == [(job.id, 2)]
    async with client.subscribe("billing") as events:
        assert event_ids(await read_events(events, 2)) == [(job.id, 1), (job.id, 2)]
        assert await events.ack()
        receiving = await client.subscription("billing")
        assert receiving.consumer == events.consumer
    await worker.succeed(job.id)
    async with client.subscribe("billing") as events:
        assert event_ids(await read_events(events, 1)) == [(job.id, 3)]

    assert receiving.ack_time
    assert receiving.filter.queues == ("math",)
    assert [s.name async for s in client.subscriptions()] == ["billing"]
    await client.delete_subscription("billing")
    assert [s.name async for s in client.subscriptions()] == []


async def test_consumer_resumes_at_another_gateway(gateway: Gateway, other_gateway: Gateway):
    async with Client([target(gateway), target(other_gateway)]) as client:
        await client.create_subscription("billing")
        async with client.subscribe("billing", consumer="a") as events:
            first = await client.submit("square_sum", PAYLOAD)
            seen = event_ids(await read_events(events, 1))
            next_event = asyncio.create_task(anext(events))
            await gateway.stop()
            assert await events.ack()
            second = await client.submit("square_sum", PAYLOAD)
            async with asyncio.timeout(TIMEOUT):
                seen += event_ids([await next_event])
            assert await events.ack()

            assert seen == [(first.id, 1), (second.id, 1)]
            assert events.resumes == 1
            assert (await client.subscription("billing")).consumer == "a"


async def test_replaced_consumer_cannot_acknowledge(client: Client, other_gateway: Gateway):
    await client.create_subscription("billing")
    async with (
        Client(target(other_gateway)) as other,
        client.subscribe("billing", consumer="a") as first,
        other.subscribe("billing", consumer="b") as second,
    ):
        assert (first.standby, second.standby) == (False, True)
        job = await client.submit("square_sum", PAYLOAD)
        assert event_ids(await read_events(first, 1)) == [(job.id, 1)]
        await first.aclose()

        assert event_ids(await read_events(second, 1)) == [(job.id, 1)]
        assert not second.standby
        with pytest.raises(SubscriptionTaken):
            await first.ack()
        assert await second.ack()


async def test_pruned_events_are_reported_and_skipped(client: Client, database: Database):
    await client.create_subscription("billing")
    old = await client.submit("email")
    await old.cancel()
    recent = await client.submit("email")
    assert (await prune(database)).jobs == 1
    with pytest.raises(CursorExpired) as excinfo:
        async with client.subscribe("billing"):
            pass

    await client.ack_subscription("billing", excinfo.value.oldest_cursor)

    async with client.subscribe("billing") as events:
        assert event_ids(await read_events(events, 1)) == [(recent.id, 1)]


async def test_newer_watch_of_a_subscription_receives(client: Client):
    await client.create_subscription("billing")
    async with (
        client.subscribe("billing", consumer="a") as older,
        client.subscribe("billing", consumer="a") as newer,
    ):
        job = await client.submit("square_sum", PAYLOAD)
        assert event_ids(await read_events(newer, 1)) == [(job.id, 1)]
        with pytest.raises(SubscriptionTaken):
            await read_events(older, 2)
        assert await newer.ack()


async def test_synchronous_client_receives(client: Client, gateway: Gateway):
    await client.create_subscription("billing")
    job = await client.submit("square_sum", PAYLOAD)

    def read_in_thread() -> list[tuple[str, int, bool]]:
        with SyncClient(target(gateway)) as sync, sync.subscribe("billing") as events:
            event = next(events)
            return [(event.job_id, event.seq, events.ack())]

    async with asyncio.timeout(TIMEOUT):
        assert await asyncio.to_thread(read_in_thread) == [(job.id, 1, True)]


async def test_client_reports_whether_a_queue_is_served(client: Client, worker: FakeWorker):
    await until(lambda: client.queue_serving("math"))


@pytest.mark.parametrize("patience", [0.5])
@pytest.mark.parametrize("end", ["slow_consumers", "resets"])
async def test_slow_client_receives_every_event_once(
    gateway: Gateway,
    client: Client,
    worker: FakeWorker,
    end: str,
    monkeypatch: pytest.MonkeyPatch,
):
    options = [*_gateways._channel_options("127.0.0.1:50051"), *SMALL_WINDOW]
    monkeypatch.setattr(_gateways, "_channel_options", lambda _: options)
    await client.create_subscription("billing")
    async with client.watch() as watch, client.subscribe("billing") as events:
        job = await client.submit("square_sum", PAYLOAD)
        one = job.watch()
        following = (watch, one, events)
        await read_events(watch, 1)
        await anext(one)
        await read_events(events, 1)
        await worker.start_job(job.id)
        for _ in range(OUTPUTS):
            await worker.report(job.id, output=OUTPUT)
        await worker.succeed(job.id)
        # The reader stalls until the gateway has ended each of its streams.
        await until(lambda: getattr(gateway.gauges, end) >= len(following))
        last = OUTPUTS + 3
        async with asyncio.timeout(TIMEOUT):
            for stream in following:
                seqs = [(await anext(stream)).seq for _ in range(last - 1)]
                assert seqs == list(range(2, last + 1))
        assert await events.ack()

    assert all(stream.resumes for stream in following)

"""SubscriptionService over two gateways."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from sqlalchemy import text

from headrace.v1.data_pb2 import DATA_ENCODING_JSON, Data
from headrace.v1.job_pb2 import JOB_STATE_QUEUED, JobSpec
from headrace.v1.job_service_pb2 import (
    WATCH_MARK_CAUGHT_UP,
    WATCH_MARK_STANDBY,
    JobFilter,
    SubmitJobRequest,
    WatchJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.subscription_service_pb2 import (
    AckSubscriptionRequest,
    CreateSubscriptionRequest,
    DeleteSubscriptionRequest,
    GetSubscriptionRequest,
    ListSubscriptionsRequest,
    Subscription,
    WatchSubscriptionRequest,
    WatchSubscriptionResponse,
)
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from headrace_core.domain.ids import uuid7
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from headrace_standalone import services
from headrace_standalone.embedded.port import free_port
from support.gateway import TIMEOUT, FakeWorker, rpc_error
from support.server import Server
from support.settings import environment_of
from support.until import until

NAME = "billing"


@pytest.fixture
def service(channel: grpc.aio.Channel) -> SubscriptionServiceStub:
    return SubscriptionServiceStub(channel)


@pytest.fixture
async def other_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    gateway = Gateway(settings)
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
async def other_service(other_gateway: Gateway) -> AsyncIterator[SubscriptionServiceStub]:
    """SubscriptionService at another gateway."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{other_gateway.port}") as channel:
        yield SubscriptionServiceStub(channel)


class Consumer:
    """A watch that a test reads one response at a time."""

    def __init__(self, service: SubscriptionServiceStub, consumer: str = "", **request: Any):
        self.call = service.WatchSubscription(
            WatchSubscriptionRequest(name=NAME, consumer=consumer, **request)
        )
        self.last = WatchSubscriptionResponse()

    async def read(self) -> WatchSubscriptionResponse:
        async with asyncio.timeout(TIMEOUT):
            response = await self.call.read()
        if response is grpc.aio.EOF:
            # This raises the error that ended the watch.
            await self.call
        self.last = response
        return response

    async def events(self, count: int) -> list[tuple[str, int]]:
        """Read `count` events, and skip the responses without events."""
        names: list[tuple[str, int]] = []
        while len(names) < count:
            names += [(event.job_id, event.seq) for event in (await self.read()).events]
        return names

    async def until_mark(self, mark: int) -> None:
        """Read until a mark."""
        async with asyncio.timeout(TIMEOUT):
            while (await self.read()).mark != mark:
                pass

    async def end(self) -> None:
        while True:
            await self.read()


async def submit(jobs: JobServiceStub, count: int = 1, queue: str = "q") -> list[tuple[str, int]]:
    """Submit jobs that never run; return the ids of their first events."""
    names = []
    for _ in range(count):
        spec = JobSpec(type="nobodys", queue=queue)
        names.append(((await jobs.SubmitJob(SubmitJobRequest(job=spec))).job.id, 1))
    return names


async def create(service: SubscriptionServiceStub, name: str = NAME, **request: Any) -> bool:
    created = await service.CreateSubscription(CreateSubscriptionRequest(name=name, **request))
    return created.created


async def get(service: SubscriptionServiceStub) -> Subscription:
    return (await service.GetSubscription(GetSubscriptionRequest(name=NAME))).subscription


async def ack(service: SubscriptionServiceStub, cursor: str) -> None:
    await service.AckSubscription(AckSubscriptionRequest(name=NAME, cursor=cursor))


async def test_subscription_is_created_read_and_deleted(service: SubscriptionServiceStub):
    job_filter = JobFilter(
        queues=["b", "a"],
        types=["t"],
        states=[JOB_STATE_QUEUED],
        labels={"team": "ml", "env": ""},
        batch_id=str(uuid7()),
        job_ids=[str(uuid7())],
    )
    response = await service.CreateSubscription(
        CreateSubscriptionRequest(name=NAME, filter=job_filter)
    )
    assert response.created
    subscription = response.subscription
    job_filter.queues[:] = ["a", "b"]
    assert (subscription.name, subscription.filter) == (NAME, job_filter)
    assert subscription.HasField("create_time")
    assert not subscription.HasField("ack_time")
    assert not subscription.HasField("lag")
    assert subscription.consumer == ""
    # The order of queues in a filter does not matter.
    assert not await create(service, filter=job_filter)
    assert await get(service) == subscription
    await service.DeleteSubscription(DeleteSubscriptionRequest(name=NAME))
    for call in (
        service.GetSubscription(GetSubscriptionRequest(name=NAME)),
        service.DeleteSubscription(DeleteSubscriptionRequest(name=NAME)),
        Consumer(service).read(),
    ):
        error = await rpc_error(call)
        assert (error.code, error.reason) == (
            grpc.StatusCode.NOT_FOUND,
            "SUBSCRIPTION_NOT_FOUND",
        )
        assert error.metadata == {"subscription": NAME}


async def test_name_with_a_different_filter_conflicts(service: SubscriptionServiceStub):
    await create(service, filter=JobFilter(queues=["a"]))
    error = await rpc_error(create(service, filter=JobFilter(queues=["b"])))
    assert (error.code, error.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "SUBSCRIPTION_CONFLICT",
    )
    assert error.metadata == {"subscription": NAME}


async def test_subscriptions_of_a_tenant_are_limited(settings: Settings):
    gateway = Gateway(settings.model_copy(update={"max_subscriptions": 1}))
    await gateway.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        service = SubscriptionServiceStub(channel)
        await create(service)
        error = await rpc_error(create(service, "another"))
        assert (error.code, error.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "LIMIT_EXCEEDED",
        )
        assert error.metadata == {
            "limit": "HEADRACE_MAX_SUBSCRIPTIONS",
            "maximum": "1",
            "actual": "2",
        }
        assert not await create(service)
    await gateway.stop()


async def test_subscriptions_are_paged(service: SubscriptionServiceStub):
    for number in range(25):
        await create(service, f"s{number:02}")
    names, token, pages = [], "", 0
    while not pages or token:
        page = await service.ListSubscriptions(
            ListSubscriptionsRequest(page_size=10, page_token=token)
        )
        names += [subscription.name for subscription in page.subscriptions]
        token, pages = page.next_page_token, pages + 1
    assert names == [f"s{number:02}" for number in range(25)]
    assert pages == 3
    full_page = await service.ListSubscriptions(ListSubscriptionsRequest())
    assert len(full_page.subscriptions) == 25
    assert full_page.next_page_token == ""


async def test_page_of_large_filters_fits_a_default_client(service: SubscriptionServiceStub):
    job_ids = [str(uuid7()) for _ in range(10_000)]
    for number in range(12):
        await create(service, f"s{number:02}", filter=JobFilter(job_ids=job_ids))
    names, token = [], None
    while token != "":
        page = await service.ListSubscriptions(ListSubscriptionsRequest(page_token=token or ""))
        names += [subscription.name for subscription in page.subscriptions]
        token = page.next_page_token
    assert names == [f"s{number:02}" for number in range(12)]


async def test_invalid_requests_list_all_violations(service: SubscriptionServiceStub):
    nul = JobFilter(queues=["a\0"], types=["\0"], labels={"a": "\0"}, states=[99], batch_id="x")
    error = await rpc_error(create(service, "No Name!", filter=nul, cursor="x"))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert set(error.violations) == {
        "name",
        "filter.queues[0]",
        "filter.types[0]",
        'filter.labels["a"]',
        "filter.states[0]",
        "filter.batch_id",
        "cursor",
    }
    request = WatchSubscriptionRequest(name="", consumer="a\nb", data_encoding=9)
    error = await rpc_error(service.WatchSubscription(request).read())
    assert set(error.violations) == {"name", "consumer", "data_encoding"}
    error = await rpc_error(Consumer(service, "x" * 129).read())
    assert set(error.violations) == {"consumer"}
    error = await rpc_error(service.AckSubscription(AckSubscriptionRequest()))
    assert set(error.violations) == {"name", "cursor"}
    for call in (
        service.GetSubscription(GetSubscriptionRequest(name="-")),
        service.DeleteSubscription(DeleteSubscriptionRequest(name="x" * 101)),
    ):
        assert set((await rpc_error(call)).violations) == {"name"}
    error = await rpc_error(service.ListSubscriptions(ListSubscriptionsRequest(page_size=-1)))
    assert set(error.violations) == {"page_size"}
    error = await rpc_error(service.ListSubscriptions(ListSubscriptionsRequest(page_token="x")))
    assert error.reason == "PAGE_TOKEN_INVALID"


async def test_acknowledged_events_are_not_resent(
    service: SubscriptionServiceStub, other_service: SubscriptionServiceStub, jobs: JobServiceStub
):
    await create(service, filter=JobFilter(queues=["q"]))
    await submit(jobs, queue="other")
    names = await submit(jobs, 2)
    one = Consumer(service, "one")
    assert await one.events(2) == names
    assert (await get(other_service)).consumer == "one"
    await ack(other_service, one.last.cursor)
    # A second acknowledgement changes nothing.
    await ack(service, one.last.cursor)
    assert (await get(service)).HasField("ack_time")
    names += await submit(jobs, 2)
    assert await one.events(2) == names[2:]
    one.call.cancel()
    second = Consumer(other_service, "second")
    assert await second.events(2) == names[2:]
    await ack(service, second.last.cursor)
    error = await rpc_error(ack(service, one.last.cursor))
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "SUBSCRIPTION_TAKEN")
    assert error.metadata == {"subscription": NAME}
    second.call.cancel()


async def test_standby_watch_takes_over(
    service: SubscriptionServiceStub, other_service: SubscriptionServiceStub, jobs: JobServiceStub
):
    await create(service)
    one = Consumer(service, "one")
    await one.until_mark(WATCH_MARK_CAUGHT_UP)
    second = Consumer(other_service, "second")
    standby = await second.read()
    assert (standby.mark, standby.cursor, len(standby.events)) == (WATCH_MARK_STANDBY, "", 0)
    names = await submit(jobs, 2)
    assert await one.events(2) == names
    one.call.cancel()
    assert await second.events(2) == names
    second.call.cancel()

    async def has_no_stream() -> bool:
        return (await get(service)).consumer == ""

    await until(has_no_stream)


async def test_newer_watch_of_a_consumer_replaces_the_older_one(
    service: SubscriptionServiceStub, other_service: SubscriptionServiceStub, jobs: JobServiceStub
):
    await create(service)
    names = await submit(jobs, 1)
    older = Consumer(service, "one")
    await older.events(1)
    newer = Consumer(other_service, "one")
    assert await newer.events(1) == names
    error = await rpc_error(older.end())
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "SUBSCRIPTION_TAKEN")
    await ack(service, older.last.cursor)
    newer.call.cancel()


async def test_watches_of_deleted_subscription_end(
    service: SubscriptionServiceStub, other_service: SubscriptionServiceStub
):
    await create(service)
    one = Consumer(service, "one")
    await one.until_mark(WATCH_MARK_CAUGHT_UP)
    second = Consumer(other_service, "second")
    await second.until_mark(WATCH_MARK_STANDBY)
    await service.DeleteSubscription(DeleteSubscriptionRequest(name=NAME))
    for consumer in (one, second):
        error = await rpc_error(consumer.end())
        assert (error.code, error.reason) == (
            grpc.StatusCode.NOT_FOUND,
            "SUBSCRIPTION_NOT_FOUND",
        )
    # A cursor of the deleted subscription is invalid for the new subscription.
    await create(service)
    error = await rpc_error(ack(service, one.last.cursor))
    assert error.reason == "CURSOR_INVALID"


async def test_cursor_of_another_subscription_is_invalid(
    service: SubscriptionServiceStub, jobs: JobServiceStub
):
    await create(service)
    await create(service, "another")
    await submit(jobs)
    one = Consumer(service)
    await one.events(1)
    cursor = one.last.cursor
    async with aclosing(_pages(jobs.WatchJobs(WatchJobsRequest()))) as pages:
        async for page in pages:
            of_jobs = page.cursor
            break
    for name, forged in (
        ("another", cursor),
        (NAME, of_jobs),
        (NAME, cursor[:-3]),
        (NAME, cursor[:20] + ("A" if cursor[20] != "A" else "B") + cursor[21:]),
        (NAME, ""),
        (NAME, "x" * 300),
    ):
        request = AckSubscriptionRequest(name=name, cursor=forged)
        error = await rpc_error(service.AckSubscription(request))
        assert (error.code, error.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "CURSOR_INVALID",
        )
        assert set(error.violations) == {"cursor"}
    # The cursor of a subscription is not a cursor of WatchJobs.
    error = await rpc_error(jobs.WatchJobs(WatchJobsRequest(cursor=cursor)).read())
    assert error.reason == "CURSOR_INVALID"
    error = await rpc_error(create(service, "third", cursor=cursor))
    assert error.reason == "CURSOR_INVALID"
    one.call.cancel()


async def _pages(call: Any) -> AsyncIterator[Any]:
    async with asyncio.timeout(TIMEOUT):
        async for page in call:
            yield page
    call.cancel()


async def test_subscription_starts_after_a_cursor(
    service: SubscriptionServiceStub, jobs: JobServiceStub, database: Database
):
    call = jobs.WatchJobs(WatchJobsRequest())
    pages: list[Any] = []
    async with asyncio.timeout(TIMEOUT):
        # A stream that starts after the submits would not contain them.
        while (first := await call.read()).mark != WATCH_MARK_CAUGHT_UP:
            pass
        names = await submit(jobs, 3)
        while sum(len(page.events) for page in pages) < 1:
            pages.append(await call.read())
    call.cancel()
    seen = sum(len(page.events) for page in pages)
    await create(service, cursor=pages[-1].cursor)
    one = Consumer(service)
    if seen < 3:
        assert await one.events(3 - seen) == names[seen:]
    one.call.cancel()

    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO event_log (tenant, start_xid, start_position) "
                "SELECT 'default', xid, position FROM job_events ORDER BY position DESC LIMIT 1"
            )
        )
    error = await rpc_error(create(service, "late", cursor=first.cursor))
    assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
    assert await create(service, "late", cursor=error.metadata["oldest_cursor"])


async def test_expired_subscription_resumes_after_pruned_events(
    service: SubscriptionServiceStub, jobs: JobServiceStub, database: Database
):
    await create(service)
    names = await submit(jobs, 3)
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "WITH pruned AS ("
                "DELETE FROM job_events WHERE job_id = CAST(:id AS uuid) RETURNING xid, position"
                ") INSERT INTO event_log (tenant, start_xid, start_position) "
                "SELECT 'default', xid, position FROM pruned"
            ),
            {"id": names[1][0]},
        )
    error = await rpc_error(Consumer(service).end())
    assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
    await ack(service, error.metadata["oldest_cursor"])
    one = Consumer(service)
    assert await one.events(1) == names[2:]
    one.call.cancel()


async def test_output_has_the_requested_encoding(
    service: SubscriptionServiceStub, jobs: JobServiceStub, worker: FakeWorker
):
    await create(service)
    spec = JobSpec(type="square_sum", payload=Data(json=b'{"data": [1]}'))
    job_id = (await jobs.SubmitJob(SubmitJobRequest(job=spec))).job.id
    await worker.start_job(job_id)
    await worker.report(job_id, output='{"n": 12345678901234567890}')
    one = Consumer(service, data_encoding=DATA_ENCODING_JSON)
    output = None
    while output is None:
        for event in (await one.read()).events:
            if event.HasField("output"):
                output = event.output
    assert output.json == b'{"n": 12345678901234567890}'
    one.call.cancel()


async def test_stopping_gateway_releases_its_subscriptions(
    service: SubscriptionServiceStub, other_service: SubscriptionServiceStub, gateway: Gateway
):
    await create(service)
    one = Consumer(service, "one")
    await one.until_mark(WATCH_MARK_CAUGHT_UP)
    second = Consumer(other_service, "second")
    await second.until_mark(WATCH_MARK_STANDBY)
    stopping = asyncio.create_task(gateway.stop())
    error = await rpc_error(one.end())
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    async with asyncio.timeout(10):
        await second.until_mark(WATCH_MARK_CAUGHT_UP)
    await stopping
    second.call.cancel()


async def test_killed_gateway_is_replaced_after_the_lease(
    settings: Settings, service: SubscriptionServiceStub, jobs: JobServiceStub, tmp_path: Path
):
    await create(service)
    address = f"127.0.0.1:{free_port()}"
    program = services.gateway(address=address, environment=environment_of(settings), grace=1.0)
    server = Server(program, log=tmp_path / "gateway.log")
    server.launch()
    try:
        await asyncio.to_thread(server.wait_until_serving)
        async with grpc.aio.insecure_channel(address) as channel:
            one = Consumer(SubscriptionServiceStub(channel), "one")
            await one.until_mark(WATCH_MARK_CAUGHT_UP)
            second = Consumer(service, "second")
            await second.until_mark(WATCH_MARK_STANDBY)
            names = await submit(jobs, 2)
            assert await one.events(2) == names
            await asyncio.to_thread(server.terminate, within=10, signum=signal.SIGKILL)
            assert await second.events(2) == names
            second.call.cancel()
    finally:
        server.stop()

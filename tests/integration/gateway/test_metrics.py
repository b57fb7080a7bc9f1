"""Gateway metrics, scraped over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc.aio
import pytest

from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import (
    WATCH_MARK_CAUGHT_UP,
    SubmitJobRequest,
    WatchJobRequest,
    WatchJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.subscription_service_pb2 import (
    CreateSubscriptionRequest,
    WatchSubscriptionRequest,
)
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support.gateway import TIMEOUT, FakeWorker
from support.scraping import Scrape, scrape, scrape_until
from support.watching import foreign_transaction

SPEC = JobSpec(type="square_sum", payload=Data(json=b'{"data": [1, 2, 3]}'))
OUTPUT = '"' + 60_000 * "x" + '"'

COMMIT_TO_SENT = "headrace_stream_commit_to_sent_seconds"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"gateway_metrics_address": "127.0.0.1:0", "stream_queue_events": 5}
    )


@pytest.fixture
async def slow_jobs(gateway: Gateway) -> AsyncIterator[JobServiceStub]:
    """Calls over a connection with a small window, which a stalled reader fills."""
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)]
    target = f"127.0.0.1:{gateway.port}"
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield JobServiceStub(channel)


@pytest.fixture
async def job_id(worker: FakeWorker, jobs: JobServiceStub) -> str:
    """A queued job."""
    return (await jobs.SubmitJob(SubmitJobRequest(job=SPEC))).job.id


async def read_response(call: Any) -> Any:
    async with asyncio.timeout(TIMEOUT):
        return await call.read()


async def until_live(call: Any) -> str:
    """Wait until a stream of many jobs has caught up; return its cursor."""
    response = await read_response(call)
    while response.mark != WATCH_MARK_CAUGHT_UP:
        response = await read_response(call)
    return str(response.cursor)


def stream_counts(samples: Scrape) -> dict[str, float]:
    kinds = ("job", "jobs", "subscription", "standby")
    return {kind: samples[f'headrace_streams{{kind="{kind}"}}'] for kind in kinds}


async def test_streams_are_counted_by_kind(gateway: Gateway, jobs: JobServiceStub, job_id: str):
    before = await scrape(gateway.metrics_port)
    assert stream_counts(before) == {"job": 0, "jobs": 0, "subscription": 0, "standby": 0}
    calls: list[Any] = [jobs.WatchJobs(WatchJobsRequest()) for _ in range(2)]
    for call in calls:
        await until_live(call)
    calls.append(jobs.WatchJob(WatchJobRequest(job_id=job_id)))
    await read_response(calls[-1])
    assert stream_counts(await scrape(gateway.metrics_port)) == {
        "job": 1,
        "jobs": 2,
        "subscription": 0,
        "standby": 0,
    }
    for call in calls:
        call.cancel()
    await scrape_until(
        gateway.metrics_port, lambda samples: not any(stream_counts(samples).values())
    )


async def test_standby_watches_of_subscription_are_counted(
    gateway: Gateway, channel: grpc.aio.Channel
):
    subscriptions = SubscriptionServiceStub(channel)
    await subscriptions.CreateSubscription(CreateSubscriptionRequest(name="billing"))
    calls = [
        subscriptions.WatchSubscription(WatchSubscriptionRequest(name="billing", consumer=consumer))
        for consumer in ("one", "two")
    ]
    await until_live(calls[0])
    samples = await scrape_until(
        gateway.metrics_port, lambda samples: stream_counts(samples)["standby"] == 1
    )
    assert stream_counts(samples) == {"job": 0, "jobs": 0, "subscription": 1, "standby": 1}
    for call in calls:
        call.cancel()
    await scrape_until(
        gateway.metrics_port, lambda samples: not any(stream_counts(samples).values())
    )


async def test_only_live_events_are_timed(
    gateway: Gateway, jobs: JobServiceStub, worker: FakeWorker, job_id: str
):
    call = jobs.WatchJob(WatchJobRequest(job_id=job_id))
    assert len((await read_response(call)).events) == 1
    assert (await scrape(gateway.metrics_port))[f"{COMMIT_TO_SENT}_count"] == 0
    await worker.start_job(job_id)
    await worker.report(job_id, output="1")
    seen = 1
    while seen < 3:
        seen += len((await read_response(call)).events)
    samples = await scrape_until(
        gateway.metrics_port, lambda samples: samples[f"{COMMIT_TO_SENT}_count"] == 2
    )
    # The poll that found the events ran within a second, and the clocks agree.
    assert 0 < samples[f"{COMMIT_TO_SENT}_sum"] < 5
    assert samples[f'{COMMIT_TO_SENT}_bucket{{le="5.0"}}'] == 2
    assert samples[f'{COMMIT_TO_SENT}_bucket{{le="+Inf"}}'] == 2
    call.cancel()


async def test_resumed_streams_are_counted(gateway: Gateway, jobs: JobServiceStub, job_id: str):
    first = jobs.WatchJobs(WatchJobsRequest())
    cursor = await until_live(first)
    from_start = jobs.WatchJob(WatchJobRequest(job_id=job_id))
    await read_response(from_start)
    assert (await scrape(gateway.metrics_port))["headrace_stream_resumes_total"] == 0
    resumed = jobs.WatchJobs(WatchJobsRequest(cursor=cursor))
    await until_live(resumed)
    from_first_event = jobs.WatchJob(WatchJobRequest(job_id=job_id, after_seq=1))
    samples = await scrape_until(
        gateway.metrics_port, lambda samples: samples["headrace_stream_resumes_total"] == 2
    )
    assert samples["headrace_stream_gaps_total"] == 0
    for call in (first, from_start, resumed, from_first_event):
        call.cancel()


async def test_stalled_reader_raises_lag_until_it_resumes(
    gateway: Gateway,
    jobs: JobServiceStub,
    slow_jobs: JobServiceStub,
    worker: FakeWorker,
    job_id: str,
):
    port = gateway.metrics_port
    active, stalled = jobs.WatchJobs(WatchJobsRequest()), slow_jobs.WatchJobs(WatchJobsRequest())
    for call in (active, stalled):
        await until_live(call)
    await worker.start_job(job_id)
    # These events exceed the capacity of the window, the packed messages and the mailbox.
    for _ in range(24):
        await worker.report(job_id, output=OUTPUT)
    samples = await scrape_until(port, lambda samples: samples["headrace_stream_lag_seconds"] > 0.3)
    lag = samples["headrace_stream_lag_seconds"]
    # When the transport window grows, the lag may fall once before it rises again.
    later = await scrape_until(
        port, lambda samples: samples["headrace_stream_lag_seconds"] > lag + 0.3
    )
    assert later["headrace_stream_slow_consumers_total"] == 0
    for call in (active, stalled):
        while not any(event.seq == 26 for event in (await read_response(call)).events):
            pass
    # The mailbox was too small for the missed events.
    await scrape_until(
        port,
        lambda samples: (
            samples["headrace_stream_lag_seconds"] == 0
            and samples["headrace_stream_catch_ups_total"] >= 1
        ),
    )
    for call in (active, stalled):
        call.cancel()


async def test_open_transaction_raises_the_settled_lag(
    gateway: Gateway, jobs: JobServiceStub, worker: FakeWorker, database: Database
):
    port = gateway.metrics_port
    call = jobs.WatchJobs(WatchJobsRequest())
    await until_live(call)
    async with foreign_transaction(database):
        # The metric rises once another session has written a row, even if no event is unsettled.
        await FakeWorker(database).register()
        lagging = await scrape_until(
            port, lambda samples: samples["headrace_open_transaction_seconds"] > 0.2
        )
        assert lagging["headrace_settled_lag_seconds"] == 0
        job_id = (await jobs.SubmitJob(SubmitJobRequest(job=SPEC))).job.id
        raised = await scrape_until(
            port, lambda samples: samples["headrace_settled_lag_seconds"] > 0.2
        )
        # The metric keeps rising without new events.
        await scrape_until(
            port,
            lambda samples: (
                samples["headrace_settled_lag_seconds"]
                > raised["headrace_settled_lag_seconds"] + 0.2
            ),
        )
        # The event is unsettled, so no stream counts as slow. A stream of the job still receives
        # the event.
        assert len((await read_response(jobs.WatchJob(WatchJobRequest(job_id=job_id)))).events) == 1
        await scrape_until(port, lambda samples: samples["headrace_stream_lag_seconds"] == 0)
    assert len((await read_response(call)).events) == 1
    await scrape_until(
        port,
        lambda samples: (
            samples["headrace_settled_lag_seconds"] == 0
            and samples["headrace_open_transaction_seconds"] < 0.1
        ),
    )
    call.cancel()


async def test_tail_polls_are_counted(gateway: Gateway, jobs: JobServiceStub, worker: FakeWorker):
    port = gateway.metrics_port
    call = jobs.WatchJobs(WatchJobsRequest())
    await until_live(call)
    before = await scrape(port)
    await jobs.SubmitJob(SubmitJobRequest(job=SPEC))
    await read_response(call)
    after = await scrape_until(
        port,
        lambda samples: samples["headrace_tail_looks_total"] > before["headrace_tail_looks_total"],
    )
    assert after["headrace_tail_events_total"] == before["headrace_tail_events_total"] + 1
    assert after["headrace_tail_failures_total"] == 0
    assert after["headrace_tail_last_look_seconds"] < 5
    call.cancel()


async def test_requests_add_no_metric_series(
    gateway: Gateway, channel: grpc.aio.Channel, jobs: JobServiceStub, job_id: str
):
    ended = (
        'headrace_rpc_streams_ended_total{code="CANCELLED",'
        'method="headrace.v1.JobService/WatchJob"}'
    )
    before: set[str] = set()
    # The first call of a method adds its series.
    for count, name in enumerate(("first", "a", "b"), start=1):
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(f"/headrace.v1.JobService/{name}")(b"")
        call = jobs.WatchJob(
            WatchJobRequest(job_id=job_id), metadata=(("user-agent", name), ("x-request-id", name))
        )
        await read_response(call)
        call.cancel()
        samples = await scrape_until(
            gateway.metrics_port,
            lambda samples, count=count: samples.get(ended) == count,
        )
        before = before or set(samples)
    assert set(samples) == before
    submits = (
        'headrace_rpc_duration_seconds_count{code="OK",method="headrace.v1.JobService/SubmitJob"}'
    )
    assert samples[submits] >= 1


async def test_process_metrics_are_exported(gateway: Gateway):
    samples = await scrape(gateway.metrics_port)
    assert samples["process_resident_memory_bytes"] > 1_000_000
    assert samples["process_open_fds"] > 3


async def test_two_gateways_in_one_process_count_separately(
    gateway: Gateway, jobs: JobServiceStub, settings: Settings
):
    other = Gateway(settings)
    await other.start()
    try:
        call = jobs.WatchJobs(WatchJobsRequest())
        await until_live(call)
        assert stream_counts(await scrape(gateway.metrics_port))["jobs"] == 1
        assert stream_counts(await scrape(other.metrics_port))["jobs"] == 0
        call.cancel()
    finally:
        await other.stop()


async def test_server_serves_only_metrics_until_it_stops(settings: Settings, database: Database):
    gateway = Gateway(settings)
    await gateway.start()
    port = gateway.metrics_port
    try:
        with pytest.raises(HTTPError, match="404"):
            await asyncio.to_thread(urlopen, f"http://127.0.0.1:{port}/", timeout=10)
        # A silent connection delays neither the next connection nor the stop.
        _, idle = await asyncio.open_connection("127.0.0.1", port)
        await scrape(port)
    finally:
        async with asyncio.timeout(60):
            await gateway.stop()
    idle.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_metrics_without_an_address_are_not_served(settings: Settings, database: Database):
    gateway = Gateway(settings.model_copy(update={"gateway_metrics_address": ""}))
    await gateway.start()
    try:
        assert gateway.metrics_port == 0
    finally:
        await gateway.stop()

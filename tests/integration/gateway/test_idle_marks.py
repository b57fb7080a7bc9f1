"""Quiet streams send marks, so that proxies with an idle timeout keep them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from pydantic import ValidationError

from headrace import Client
from headrace._timing import Timing
from headrace.v1.job_pb2 import JOB_STATE_SUCCEEDED, JobSpec
from headrace.v1.job_service_pb2 import (
    WATCH_MARK_IDLE,
    SubmitAndWatchRequest,
    SubmitJobRequest,
    WatchJobRequest,
    WatchJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.subscription_service_pb2 import WatchSubscriptionRequest
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from support.gateway import TIMEOUT, FakeWorker, rpc_error
from support.proxy import Proxy

# The interval of the marks, and the idle timeout of the proxy, in seconds.
MARK_S, PROXY_S = 0.3, 3.0
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"stream_idle": MARK_S})


@pytest.fixture
async def proxy(gateway: Gateway) -> AsyncIterator[Proxy]:
    proxy = Proxy(f"grpc://127.0.0.1:{gateway.port}")
    proxy.idle = PROXY_S
    await proxy.start()
    yield proxy
    await proxy.cut()


async def test_idle_marks_keep_quiet_streams_through_a_proxy(
    proxy: Proxy, worker: FakeWorker, jobs: JobServiceStub
):
    spec = JobSpec(type="email")
    job_id = (await jobs.SubmitJob(SubmitJobRequest(job=spec, request_id="key"))).job.id
    await worker.start_job(job_id)

    async def follow(call: grpc.aio.UnaryStreamCall) -> tuple[list[int], int, int]:
        seqs, marks, state = [], 0, 0
        async for response in call:
            seqs += [event.seq for event in response.events]
            state = response.events[-1].state if response.events else state
            marks += response.mark == WATCH_MARK_IDLE
            assert not (response.events and response.mark)
        return seqs, marks, state

    async def follow_as_client() -> tuple[list[int], int]:
        async with Client(proxy.address) as client:
            watch = client.watch_job(job_id)
            return [event.seq async for event in watch], watch.resumes

    async with (
        asyncio.timeout(TIMEOUT),
        grpc.aio.insecure_channel(proxy.address, options=OWN_CONNECTION) as one,
        grpc.aio.insecure_channel(proxy.address, options=OWN_CONNECTION) as two,
        grpc.aio.insecure_channel(proxy.address, options=OWN_CONNECTION) as three,
        asyncio.TaskGroup() as group,
    ):
        responses = group.create_task(
            follow(JobServiceStub(one).WatchJob(WatchJobRequest(job_id=job_id)))
        )
        request = SubmitAndWatchRequest(job=spec, request_id="key")
        submitted = group.create_task(follow(JobServiceStub(two).SubmitAndWatch(request)))
        client = group.create_task(follow_as_client())
        # The proxy cuts the stream with rare marks, which proves that the idle timeout has passed.
        rare_marks = JobServiceStub(three).WatchJob(
            WatchJobRequest(job_id=job_id, idle_interval=Duration(seconds=60))
        )
        with pytest.raises(grpc.aio.AioRpcError) as excinfo:
            async for _ in rare_marks:
                pass
        assert excinfo.value.code() is grpc.StatusCode.UNAVAILABLE
        await worker.succeed(job_id)
    for seqs, marks, state in (await responses, await submitted):
        assert seqs == [1, 2, 3]
        assert marks >= 2
        assert state == JOB_STATE_SUCCEEDED
    assert await client == ([1, 2, 3], 0)


@pytest.mark.parametrize(
    "interval",
    [
        Duration(),
        Duration(nanos=999_999_999),
        Duration(seconds=60, nanos=1),
        Duration(seconds=-5),
        Duration(seconds=2**62),
    ],
    ids=str,
)
async def test_idle_interval_out_of_range_is_invalid(
    channel: grpc.aio.Channel, jobs: JobServiceStub, interval: Duration
):
    job_id = "0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15"
    subscriptions = SubscriptionServiceStub(channel)
    for call in (
        jobs.WatchJob(WatchJobRequest(job_id=job_id, idle_interval=interval)),
        jobs.WatchJobs(WatchJobsRequest(idle_interval=interval)),
        jobs.SubmitAndWatch(
            SubmitAndWatchRequest(job=JobSpec(type="email"), idle_interval=interval)
        ),
        subscriptions.WatchSubscription(
            WatchSubscriptionRequest(name="any", idle_interval=interval)
        ),
    ):
        error = await rpc_error(call.read())
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.violations == {"idle_interval": "must be 1 s to 60 s"}


def test_maximum_idle_setting_is_half_the_client_timeout():
    longest = Timing().max_silence / 2
    assert Settings(stream_idle=longest).stream_idle == longest
    with pytest.raises(ValidationError, match="stream_idle"):
        Settings(stream_idle=longest + 0.1)

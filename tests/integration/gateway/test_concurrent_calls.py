"""Many simultaneous calls, as after a gateway restart."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import grpc
import grpc.aio

from headrace import Client
from headrace.v1.job_service_pb2 import GetJobRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from support.gateway import TIMEOUT

# By default gRPC cancels some calls beyond 1,000 pending ones, and all beyond 3,000.
_CALLS = 3500


async def test_every_concurrent_call_receives_a_response(settings: Settings):
    gateway = Gateway(settings.model_copy(update={"max_concurrent_streams": 2 * _CALLS}))
    await gateway.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
            jobs = JobServiceStub(channel)

            async def call_status() -> grpc.StatusCode:
                try:
                    await jobs.GetJob(GetJobRequest(job_id="none"), timeout=TIMEOUT * 2)
                except grpc.aio.AioRpcError as error:
                    return error.code()
                return grpc.StatusCode.OK

            async with asyncio.timeout(TIMEOUT * 3):
                codes = Counter(await asyncio.gather(*(call_status() for _ in range(_CALLS))))
    finally:
        await gateway.stop()
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT: _CALLS}


async def test_client_opens_connections_for_streams_beyond_the_limit(settings: Settings):
    gateway = Gateway(settings.model_copy(update={"max_concurrent_streams": 2}))
    await gateway.start()
    try:
        async with (
            asyncio.timeout(TIMEOUT * 3),
            AsyncExitStack() as streams,
            Client(f"127.0.0.1:{gateway.port}") as client,
        ):
            # Each watch starts before the next one, so all are open at the same time.
            watches = [await streams.enter_async_context(client.watch()) for _ in range(30)]
            job = await client.submit("email")
            for watch in watches:
                assert (await anext(watch)).job_id == job.id
    finally:
        await gateway.stop()

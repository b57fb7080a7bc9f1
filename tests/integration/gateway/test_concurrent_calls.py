"""Many simultaneous calls, as after a gateway restart."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import grpc.aio

from headrace.v1.job_service_pb2 import GetJobRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from support.gateway import TIMEOUT

# By default gRPC cancels some calls beyond 1,000 pending ones, and all beyond 3,000.
_CALLS = 3500


async def test_every_concurrent_call_receives_a_response(jobs: JobServiceStub):
    async def call_status() -> grpc.StatusCode:
        try:
            await jobs.GetJob(GetJobRequest(job_id="none"), timeout=TIMEOUT * 2)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async with asyncio.timeout(TIMEOUT * 3):
        codes = Counter(await asyncio.gather(*(call_status() for _ in range(_CALLS))))
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT: _CALLS}

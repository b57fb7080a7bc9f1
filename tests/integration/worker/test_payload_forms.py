"""Payloads in every form that the gateway accepts, which a real worker decodes."""

from __future__ import annotations

import json
from uuid import UUID

import grpc.aio
import pytest
from google.protobuf import json_format, struct_pb2

from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import SubmitJobRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from support.handlers import handlers
from support.platform import platform

TIMEOUT = 30


def value_payload(number: float) -> Data:
    content = struct_pb2.Value()
    json_format.ParseDict({"number": number}, content)
    return Data(value=content)


async def test_accepted_payload_is_decoded_by_the_worker(settings: Settings) -> None:
    accepted = {
        4: Data(json=b'{"number": 4.0}'),
        1000: Data(json=b'{"number": 1e3}'),
        5: Data(json=b'{"number": "x", "number": 5}'),
        2**53 + 2: value_payload(2.0**53 + 2),
        7: value_payload(7.0),
    }
    rejected = [
        Data(json=b'{"number": 1.5}'),
        Data(json=b'{"number": 5, "number": "x"}'),
        value_payload(0.5),
    ]
    async with platform(settings, handlers()) as jobs:
        gateway = Gateway(settings)
        await gateway.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                stub = JobServiceStub(channel)
                for number, payload in accepted.items():
                    request = SubmitJobRequest(job=JobSpec(type="t.double", payload=payload))
                    response = await stub.SubmitJob(request, timeout=TIMEOUT)
                    job = await jobs.until_ended(JobId(UUID(response.job.id)))
                    assert job.state is JobState.SUCCEEDED, job.error
                    assert json.loads(job.result or "") == {"number": 2 * number}
                for payload in rejected:
                    request = SubmitJobRequest(job=JobSpec(type="t.double", payload=payload))
                    with pytest.raises(grpc.aio.AioRpcError) as error:
                        await stub.SubmitJob(request, timeout=TIMEOUT)
                    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        finally:
            await gateway.stop()

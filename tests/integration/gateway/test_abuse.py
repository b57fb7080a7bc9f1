"""Clients that break the rules of HTTP/2 and gRPC cannot harm others."""

from __future__ import annotations

import asyncio
import gzip

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from faults.abuse import ACK, PING, PREFACE, frame
from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import SubmitJobRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from support.gateway import TIMEOUT, rpc_error

SUBMIT = "/headrace.v1.JobService/SubmitJob"


def request(size: int) -> SubmitJobRequest:
    payload = Data(json=b'"' + b"x" * size + b'"')
    return SubmitJobRequest(job=JobSpec(type="any", payload=payload))


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.NoCompression])
async def test_compressed_request_is_accepted(
    jobs: JobServiceStub, algorithm: grpc.Compression
) -> None:
    response = await jobs.SubmitJob(request(1000), compression=algorithm)
    assert response.job.id


async def test_decompressed_size_is_limited(jobs: JobServiceStub, settings: Settings) -> None:
    size = settings.max_request_bytes
    error = await rpc_error(jobs.SubmitJob(request(size), compression=grpc.Compression.Gzip))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "LIMIT_EXCEEDED")
    assert error.metadata["limit"] == "HEADRACE_MAX_REQUEST_BYTES"
    assert int(error.metadata["actual"]) > size


async def test_corrupt_compressed_request_is_rejected(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(SUBMIT)
    error = await rpc_error(call(gzip.compress(b"x" * 1000)[:-1], timeout=TIMEOUT))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "is not a headrace.v1.SubmitJobRequest" in error.message


async def test_frequent_pings_are_answered(gateway: Gateway) -> None:
    # By default, gRPC closes the connection after the first round, which delays other calls.
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(PREFACE)
    pings = 1000
    for _ in range(2):
        writer.write(frame(PING, 0, 0, b"headrace") * pings)
        answers = 0
        async with asyncio.timeout(TIMEOUT):
            while answers < pings:
                header = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(header[:3]))
                answers += header[3] == PING and header[4] == ACK
    writer.close()


class TestConnectionLimits:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={"max_connections": 3, "connection_idle": 1.0, "handshake_timeout": 0.5}
        )

    async def test_silent_connection_is_closed(self, gateway: Gateway) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        async with asyncio.timeout(TIMEOUT):
            # The gateway sends its settings, and then closes a connection that sends no preface.
            while await reader.read(1000):
                pass
        writer.close()

    async def test_idle_connection_is_closed_and_reopened(
        self, gateway: Gateway, channel: grpc.aio.Channel
    ) -> None:
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        async with asyncio.timeout(TIMEOUT):
            while (state := channel.get_state()) is grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(state)
        response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert response.status == health_pb2.HealthCheckResponse.SERVING

    async def test_connections_beyond_limit_are_closed(
        self, gateway: Gateway, settings: Settings
    ) -> None:
        connections = [
            await asyncio.open_connection("127.0.0.1", gateway.port)
            for _ in range(settings.max_connections + 1)
        ]
        ends = [asyncio.create_task(_until_closed(reader)) for reader, _ in connections]
        async with asyncio.timeout(TIMEOUT):
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*ends)
        for _, writer in connections:
            writer.close()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    while await reader.read(1000):
        pass

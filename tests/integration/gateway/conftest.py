"""A channel to the gateway, and stubs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from headrace.v1.handler_service_pb2_grpc import HandlerServiceStub
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_gateway.service import Gateway


@pytest.fixture
async def channel(gateway: Gateway) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        yield channel


@pytest.fixture
def jobs(channel: grpc.aio.Channel) -> JobServiceStub:
    return JobServiceStub(channel)


@pytest.fixture
def handlers(channel: grpc.aio.Channel) -> HandlerServiceStub:
    return HandlerServiceStub(channel)

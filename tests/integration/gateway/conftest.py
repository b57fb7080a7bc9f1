"""A real gateway in the test's event loop, a channel to it, and a simulated worker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from headrace.v1.handler_service_pb2_grpc import HandlerServiceStub
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support.gateway import SQUARE_SUM, FakeWorker


@pytest.fixture
async def worker(database: Database) -> FakeWorker:
    """A live worker with the handler `square_sum`, registered before the gateway starts."""
    worker = FakeWorker(database, SQUARE_SUM)
    await worker.register()
    return worker


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[Gateway]:
    gateway = Gateway(settings)
    await gateway.start()
    yield gateway
    await gateway.stop()


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

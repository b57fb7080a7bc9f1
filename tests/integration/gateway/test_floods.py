"""A connection that sends much without calls is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import grpc.aio
import pytest

from faults.abuse import PREFACE, Connection, Counts, header_flood, ping_flood
from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import SubmitJobRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings
from headrace_gateway.floods import FloodLimits
from headrace_gateway.service import Gateway
from support.gateway import TIMEOUT
from support.scraping import scrape_until

LIMITS = FloodLimits(rate=10_000, excess=1_000_000, patience=0.0)
CLOSED = "headrace_flooding_connections_closed_total"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"gateway_metrics_address": "127.0.0.1:0"})


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[Gateway]:
    gateway = Gateway(settings, flood_limits=LIMITS)
    await gateway.start()
    yield gateway
    await gateway.stop()


async def flood(
    gateway: Gateway, abuse: Callable[[Connection, Counts], Awaitable[None]] = ping_flood
) -> None:
    """Flood a connection until the gateway closes it."""
    connection = Connection(*await asyncio.open_connection("127.0.0.1", gateway.port))
    responses = asyncio.create_task(connection.drain_responses())
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(OSError):
            await connection.send(PREFACE)
            await abuse(connection, Counts())
        await responses
    connection.close()


@pytest.mark.parametrize("abuse", [ping_flood, header_flood])
async def test_flooding_connection_is_closed_and_counted(
    gateway: Gateway, abuse: Callable[[Connection, Counts], Awaitable[None]]
) -> None:
    await flood(gateway, abuse)
    await scrape_until(gateway.metrics_port, lambda samples: samples[CLOSED] == 1)


async def test_connection_with_large_calls_stays_open(
    gateway: Gateway, channel: grpc.aio.Channel, jobs: JobServiceStub
) -> None:
    payload = Data(json=b'"' + 200_000 * b"x" + b'"')
    for _ in range(10):
        await jobs.SubmitJob(SubmitJobRequest(job=JobSpec(type="any", payload=payload)))
    # The gateway measures all connections when it closes this one.
    await flood(gateway)
    assert channel.get_state() is grpc.ChannelConnectivity.READY
    await scrape_until(gateway.metrics_port, lambda samples: samples[CLOSED] == 1)

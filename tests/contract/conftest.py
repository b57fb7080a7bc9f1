"""Fixtures of the contract suite, which runs on the platform and on `headrace.testing`.

A module shares a gateway, so each test uses its own jobs, labels and names. The docstring of
`headrace.testing` lists the promises that only the platform keeps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import grpc.aio
import pytest
import pytest_asyncio

from headrace import Client
from headrace.v1.handler_service_pb2_grpc import HandlerServiceStub
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from headrace_core.runtime.settings import Settings
from support.contract import Driver, fake_driver, real_driver


@pytest.fixture(scope="module", params=["platform", "fake"])
def platform_settings(request: pytest.FixtureRequest) -> Settings | None:
    """Settings of the platform; None for the fake, which needs no servers."""
    if request.param == "fake":
        return None
    settings: Settings = request.getfixturevalue("module_settings")
    return settings


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def driver(platform_settings: Settings | None) -> AsyncIterator[Driver]:
    """A gateway, with control over the transitions of its jobs."""
    starting = fake_driver() if platform_settings is None else real_driver(platform_settings)
    async with starting as driver:
        yield driver


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(driver: Driver) -> AsyncIterator[Client]:
    async with Client(driver.target) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def channel(driver: Driver) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(driver.target) as channel:
        yield channel


@pytest.fixture
def jobs(channel: grpc.aio.Channel) -> JobServiceStub:
    return JobServiceStub(channel)


@pytest.fixture
def handlers(channel: grpc.aio.Channel) -> HandlerServiceStub:
    return HandlerServiceStub(channel)


@pytest.fixture
def subscriptions(channel: grpc.aio.Channel) -> SubscriptionServiceStub:
    return SubscriptionServiceStub(channel)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"n{uuid4().hex[:12]}"

"""Fixtures of the access tests: stubs, the Python client and the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest

from headrace import Client
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.user_service_pb2_grpc import UserServiceStub
from headrace_core.domain.access import Role
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support.access import add_api_key
from support.command_line import Headrace
from support.warm_cli import warm_cli


@pytest.fixture
def access(channel: grpc.aio.Channel) -> AccessServiceStub:
    return AccessServiceStub(channel)


@pytest.fixture
def users(channel: grpc.aio.Channel) -> UserServiceStub:
    return UserServiceStub(channel)


@pytest.fixture
def target(gateway: Gateway) -> str:
    return f"127.0.0.1:{gateway.port}"


@pytest.fixture
async def admin_key(database: Database) -> str:
    return await add_api_key(database, Role.ADMIN)


@pytest.fixture
async def admin(target: str, admin_key: str) -> AsyncIterator[Client]:
    async with Client(target, api_key=admin_key) as client:
        yield client


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The command that runs the command line in a separate process."""
    with warm_cli(tmp_path_factory.mktemp("cli")) as command:
        yield command


@pytest.fixture
def headrace(cli: tuple[str, ...], target: str, tmp_path: Path) -> Headrace:
    return Headrace(cli, target=target, config=tmp_path)

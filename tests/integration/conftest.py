"""The shared database of tests that do not change the schema, a gateway and a simulated worker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support.databases import Databases
from support.gateway import SQUARE_SUM, FakeWorker


@pytest.fixture
def database_url(databases: Databases) -> str:
    """An empty database with the schema, shared by these tests.

    A test that changes the schema or the settings of its database must use `own_database_url`.
    """
    return databases.empty_shared()


@pytest.fixture
async def worker(database: Database) -> FakeWorker:
    """A live worker with the handler `square_sum`, registered before the gateway starts."""
    worker = FakeWorker(database, SQUARE_SUM)
    await worker.register()
    return worker


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway in the event loop of the test."""
    gateway = Gateway(settings)
    await gateway.start()
    yield gateway
    await gateway.stop()

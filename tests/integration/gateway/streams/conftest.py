"""A watch as a gateway has it, and a worker that the test plays."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from headrace_core.domain.ids import WorkerId
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.streams import Watch
from support.watching import subscriptions, watching
from support.workers import register


@pytest.fixture
async def watch(settings: Settings) -> AsyncIterator[Watch]:
    """Streams; none of a test's may be left in the end."""
    async with watching(settings) as watch:
        yield watch
        assert subscriptions(watch) == (0, 0, 0)


@pytest.fixture
async def worker_id(database: Database) -> WorkerId:
    """A live worker that runs "test"."""
    return await register(database)

"""A gateway's streams, and a simulated worker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from headrace_core.domain.ids import WorkerId
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.streams import Watch
from headrace_gateway.streams.timing import DEFAULT, Timing
from support.watching import subscriptions, watching
from support.workers import register


@pytest.fixture
def timing() -> Timing:
    """The stream timing; a test overrides it with a parameter named `timing`."""
    return DEFAULT


@pytest.fixture
async def watch(settings: Settings, timing: Timing) -> AsyncIterator[Watch]:
    """The streams of a gateway. A test must close every stream that it opens."""
    async with watching(settings, timing) as watch:
        yield watch
        assert subscriptions(watch) == (0, 0, 0)


@pytest.fixture
async def worker_id(database: Database) -> WorkerId:
    """A live worker with the type "test"."""
    return await register(database)

"""Fixtures of the store tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database


@pytest.fixture
async def large_pool(settings: Settings) -> AsyncIterator[Database]:
    """The database, with enough connections for many concurrent transactions."""
    database = Database(
        # On a busy machine, many simultaneous connects take long.
        settings.model_copy(update={"database_pool_size": 40, "database_timeout": 60.0}),
        application="test-crowd",
    )
    try:
        yield database
    finally:
        await database.close()

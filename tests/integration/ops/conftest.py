"""The database for tests that damage it before they run a command."""

from __future__ import annotations

import pytest


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """A database for one test, which may change its schema and settings."""
    return own_database_url

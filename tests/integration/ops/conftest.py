"""The database of tests that damage what a command then finds."""

from __future__ import annotations

import pytest


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """A database of the test's own: tests change its schema and settings."""
    return own_database_url

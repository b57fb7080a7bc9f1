"""Fixtures of the tests of wake-ups."""

from __future__ import annotations

import pytest

from support.databases import Databases


@pytest.fixture
def database_url(databases: Databases) -> str:
    """An empty database with the schema, shared by these tests."""
    return databases.emptied()
